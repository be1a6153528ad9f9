"""English words and sentence patterns of the prose generator. Written for this project; no digits.

Knows nothing of how scenes are made of them: that is prose.py. What stands here is part of version
1 of the text, so it never changes.
"""

from __future__ import annotations

from longctx.eval.texts.prose_lists import split

NAMES = split("""Ada|Anselm|Beatrix|Bruno|Celia|Conrad|Dorothea|Edmund|Elsie|Farid|Flora|Gideon
|Greta|Hanna|Hector|Imogen|Ivo|Jasper|Juno|Kamala|Leander|Lotte|Marius|Mina|Nadia|Noor|Oskar|Ottilie
|Pavel|Petra|Quentin|Rosalind|Ruben|Sefa|Silas|Tamsin|Theo|Una|Viktor|Willa|Yusuf|Zora|Agnes|Balthasar
|Clemens|Delia|Emeric|Fenna|Gregor|Hilde|Isolde|Joachim|Klara|Lucian|Magda|Nestor|Odile|Piet|Regina
|Stellan|Thea|Ulrich|Vera|Wendel|Xenia|Yolanda|Zacharias|Amos|Bettina|Casimir""")
TRADES = split("""apothecary|baker|bell founder|bookbinder|carpenter|cartographer|clockmaker|cooper
|ferryman|gardener|glazier|harbour pilot|innkeeper|lamplighter|librarian|lighthouse keeper|mason
|midwife|miller|organist|potter|schoolteacher|shepherd|surveyor|tailor|weaver|basket maker|beekeeper
|candle maker|chandler|dyer|engraver|gatekeeper|lock keeper|notary|postmaster|printer|roofer
|saddler|smith|stonecutter|thatcher|wheelwright""")
WORDS = {
    "place": split("""the old harbour|the upper market|the grain hall|the ferry landing
|the botanical garden|the reading room|the north gate|the tannery yard|the music school
|the salt warehouse|the hill road|the mill pond|the observatory steps|the covered bridge|the fish quay
|the orchard behind the chapel|the customs house|the signal tower|the rope walk
|the almshouse kitchen|the quarry path|the winter stables|the print shop|the drowned meadow
|the weighing house|the back room of the inn|the churchyard wall|the lower lock|the charcoal clearing
|the glasshouse|the bakery cellar|the school attic|the tile kiln|the pump in the square
|the sheep market|the boat shed|the vicarage garden|the archive|the toll gate|the ice house
|the dye works|the bathing steps|the granary loft|the hospital courtyard|the dancing floor
|the cooper's yard|the sluice|the bench under the limes|the tailor's workshop|the east pier
|the vineyard terrace|the stone ford"""),
    "hour": split("""early in the morning|towards noon|in the slack hour after lunch
|late in the afternoon|at dusk|long after supper|before the first bell|on the last evening of the fair
|on a Sunday in the wet season|when the tide had turned|between two showers
|in the third week of the frost|on the day after the election|while the choir was rehearsing
|just before the lamps were lit|at the end of a long winter|during the sheep sales|after the last coach
|on the morning of the wedding|in the middle of the harvest|when the shops were closing
|on the eve of the feast|a little before midnight|as soon as the ice was gone
|at the hour when bread is cheapest|in the first warm days|after a week of rain|when school was out
|on market day|while the river was still high|in the quiet after the storm|at the turn of the year
|as the ferry was coming in|on the second day of the journey|when the cows had been milked
|between harvest and vintage"""),
    "weather": split("""a thin rain was falling|the fog would not lift|the wind had gone round to the east
|the first snow lay on the sills|the heat stood in the street like a wall|the clouds hung low
|the light was clear and rather cold|thunder was grumbling beyond the hills|the river had risen
|the air smelled of tar and wet wool|a pale sun was doing its best|the ice was breaking up
|hail rattled on the roofs|the swallows were flying low|frost had drawn ferns on every pane
|the dust would not settle|a warm wind was blowing from the marshes|the gutters were running over
|the stars were unusually bright|mist lay in the hollows|the first leaves were coming down
|the evening was mild for the season|the puddles had frozen over|rain drummed on the awnings
|the sky was the colour of slate|a storm was coming up from the sea|the mud was ankle deep
|the shade was worth more than money|the moon had a ring|the thaw had begun in earnest
|the wind was looking for loose shutters|the drought had lasted for weeks"""),
    "thing": split("""a ledger bound in green cloth|a box of brass weights|a map with one corner burnt
|a basket of quinces|a broken barometer|a bundle of letters tied with string|a cage without a bird
|a bolt of undyed linen|a jar of copper nails|a fiddle in need of strings|a lamp with a blue shade
|a packet of foreign seeds|a clock that ran backwards|a coat that had belonged to someone taller
|a tray of type|a coil of tarred rope|a portrait of nobody in particular|a key as long as a hand
|a notebook of recipes|a wheel of hard cheese|a telescope on a wooden stand|a cracked bell
|a chest with a false bottom|a pair of borrowed boots|a globe from before the war|a sack of barley
|a walking stick with a silver knob|a model of the bridge|a bottle of walnut ink|a stuffed heron
|a drawer full of buttons|a plan of the waterworks|a wreath of dried hops|a saddle with a torn girth
|an umbrella with a bone handle|a pot of plum jam|a chessboard without kings|an almanac
|a pair of scales|a tin of lamp oil|a birdcage wrapped in paper|a kettle without a lid
|a roll of tracing paper|a hymn book in another language|a crate of oranges|a weather glass
|a child's sledge|a spool of red thread|a violin case full of tools|a mirror with a spotted edge
|a sheaf of unpaid bills|a hatbox tied with ribbon|a bucket of lime|a wooden spoon as big as a spade
|a bunch of rusty keys|a scarf of grey silk|a sample of blue clay|a compass that stuck
|a carved pipe|a goose in a basket|an envelope without an address|a set of dominoes
|a folded banner|a cup with a gilded rim"""),
    "topic": split("""the price of timber|the new bridge|what the surveyor had found
|the missing inventory|a cousin's wedding|the proper way to graft a pear tree|the school roof
|the quarrel over the well|a ship that was overdue|the council's latest notice
|the tuning of the great organ|whether the ferry should run at night|an inheritance that pleased nobody
|the habits of swifts|a play that had been forbidden elsewhere|the cost of candles
|the language of the hill people|how maps are made to lie|a debt from before the flood
|the weather of other years|the election of a new bell ringer|the smell from the tannery
|a dog that could not be owned|the road to the coast|the right depth for a cellar
|the disappearance of the eels|a letter that had been opened|the spelling of an old name
|the lease of the upper meadow|the sale of the mill|a dream about the harbour|the stone for the new steps
|the quality of this year's honey|the rumour of a railway|a cure for the hoof rot
|the boundary with the next parish|the stranger at the inn|the theft of the weathercock
|a song with too many verses|the education of daughters|the length of a proper mourning
|the repair of the sluice|a recipe for black bread|the behaviour of the tides|a lost wager
|the reading of the will|the paint on the town hall doors|the danger of open lamps
|the cleverness of crows|the last winter but one|a marriage that had been put off
|the use of steam"""),
    "manner": split("""patiently|with some reluctance|in a low voice|as if it were nothing
|rather too quickly|without looking up|with evident pleasure|for the second time that week
|against all advice|with the care of a person carrying eggs|more loudly than was needed
|half in earnest|with great exactness|in the tone of an old quarrel|like someone reading from a list
|with a sigh|without any hurry|as politely as possible|with an eye on the door|in the best of tempers
|out of mere habit|with one hand in a pocket|as one speaks to a horse|in no particular order
|with many interruptions|to everybody's surprise|almost tenderly|in spite of the noise
|with the window open|as though rehearsing it|under protest|with unusual firmness"""),
    "view": split("""nobody had asked the right question|the simplest account was usually the true one
|patience was a kind of cleverness|the town had changed less than people claimed
|every repair begins with taking something apart|a promise made in haste is still a promise
|the old custom had a reason, even if it was lost|one ought to measure before one quarrels
|there is more work in an apology than in a fence|the young were no worse than they had been
|most secrets are only things that nobody wrote down|luck had been given too much credit
|a good tool outlives a good argument|silence can be rude as well as polite
|it is easier to start a clock than a conversation|the poor remember prices better than faces
|a guest should leave while the lamp is still full|nothing is as heavy as a borrowed thing
|all roads are shorter on the way home|strangers notice what neighbours forgive
|the water always finds the weak plank|a small room makes for honest talk
|one bad winter teaches more than ten good summers|what is everybody's business is swept by nobody
|old friends need few words and much soup|maps are kinder than mountains
|the best bread comes from a grumbling baker|a debt grows in the dark|dogs are better judges than juries
|the law is a fence with many gates|a thing done slowly is seldom done twice
|children hear what is not said to them|the river was there before the bridge
|it is no use painting a rotten door|a joke is a way of knocking|memory is a poor accountant
|some letters are better for being late|an honest scale needs no praise
|people climb a hill to look at their own house|whoever sings at work is not counting hours
|good news can wait until the soup is served|the tallest chimney gets the storks
|there is no such thing as a short visit|a locked drawer is an invitation
|weather is the only fair topic|one cannot hurry a kettle or a judge
|it was better to be cheated than to cheat|the past is mostly furniture
|a straight answer needs a straight back|the shortest sermon is remembered longest"""),
    "deed": split("""mended the shutters|counted the sacks again|wrote the whole affair down|lit the stove
|walked back by the longer way|sent for the carpenter|closed the account|opened the side door
|copied the inscription|emptied the shelves|read the notice aloud|weighed the parcel
|drew a plan of the cellar|washed the brushes|put the chairs in a circle|tried the lock
|swept the yard|asked for the bill|folded the tablecloth|wound the clock|fetched a second lamp
|took the path along the dyke|hung the keys on their nail|tasted the soup|sharpened both knives
|tied up the boat|sealed the envelope|moved the table to the window|poured out the last of the cider
|fed the hens|rang the bell twice|climbed to the loft|hid the letter in the almanac
|looked for a candle|corrected the spelling|sat down on the steps|paid the boatman|turned the mattress
|whistled for the dog|bought a new wick|planted the bulbs|wiped the slate clean|left by the garden
|crossed out a line|shook the rain from the umbrella|refused a second cup|played a scale
|carried in the firewood|untangled the nets|polished the brass|asked the way to the coast
|returned the ladder|signed without reading|drew the curtains|chalked a mark on the door
|covered the well|listened at the wall|buttered another slice|threw the peelings to the pig
|watered the geraniums|packed the trunk|pulled the cart under the arch"""),
    "feeling": split("""a quiet relief|something like envy|an old tiredness|a sudden wish to travel
|more curiosity than alarm|a small and foolish joy|the shame of having been early
|a hunger that was not for bread|great calm|the itch to put things straight|homesickness
|a suspicion of being watched|the beginnings of a cold|an unreasonable hope|a touch of pride
|plain boredom|a tenderness that was hard to explain|the satisfaction of a finished list
|mild disgust|a fear of draughts|gratitude|the need for company|a certain stubbornness
|nothing but impatience|regret|a sort of hollow cheerfulness"""),
    "sound": split("""the creak of the mill wheel|a distant accordion|the bell of the lower school
|somebody chopping wood|the wash of the river|a cart on loose stones|doves under the eaves
|the scrape of a chair overhead|a dog that would not settle|the hiss of the lamp|the choir practising
|oars in their locks|a kettle coming to the boil|steps on the gravel|the ticking of several clocks
|geese passing over|a saw going through wet wood|the slap of wet linen|laughter from the kitchen
|a shutter that had come loose|the murmur of the market|rain in the gutter|the smith at his anvil
|a child learning the flute|the wind in the chimney|a far-off horn"""),
}
PATTERNS = tuple(
    """{A} the {ta} came to {place} {hour}, carrying {thing}.
It was {hour}, and {weather}.
"{View}," said {a}, and {deed}.
{B} had brought {thing}, which was set down in {place} and not mentioned again.
They spoke {manner} of {topic}, and then of {topic2}.
Nobody in {place} remembered who had left {thing} there.
{A} {deed} and {deed2}, {manner}, while {weather}.
"Is it true about {topic}?" asked {b}, who {deed}.
The answer, when it came, concerned {topic} rather than {topic2}.
At {place} there was a long table, and on it lay {thing} and {thing2}.
If {a} was surprised, it did not show; {b} merely {deed}.
What struck {b} most was not {topic} but the way in which everybody avoided {topic2}.
{A} held that {view}, and {b} that {view2}; on this they had disagreed for years.
Since {weather}, the walk to {place} took longer than usual.
In those years {topic} was discussed in every kitchen, usually {manner}.
{B} laughed {manner} and {deed}.
So they sat in {place} until evening and talked of {topic}.
There was a silence in {place}, in which one could hear {sound}.
Before going home, {a} {deed}, because {view}.
"I would rather talk about {topic}," {b} answered {manner}, "for {view}."
Someone had written on the wall of {place} that {view}.
Neither of them noticed that {thing} was gone until {c} the {tc} pointed it out.
{C} the {tc}, who had been listening, {deed} and said that {view}.
For a while they watched the door of {place}, and the conversation turned to {topic}.
It would have been easy to blame {c} for {topic}, and several people did so {manner}.
Later, when {topic} had been settled, {a} gave {thing} to {b} and kept {thing2}.
The window looked out on {place}, where {weather} and a few people were waiting.
"You have {thing} in your bag," {c} observed, "and yet you speak of {topic}."
{A} remembered {hour} of another year, when {b} {deed} for no reason at all.
Whoever wants to understand {topic} must first have seen {place} {hour}.
From {place} came {sound}.
{A} felt {feeling}, but {deed} all the same.
With {feeling} and {thing}, {b} set out for {place}.
"Listen," said {c}; it was only {sound}.
There are people who think that {view}; {a} the {ta} was one of them.
When {b} {deed}, {a} knew that the matter of {topic} was closed.
Between {place} and {place2} nobody met them except {c} the {tc}.
{Weather}, said those who had been at {place}; {weather2}, said the others.
{A} bought {thing} {hour} and regretted it by the time they reached {place}.
Had it not been for {thing}, {b} would never have come to {place}.
One could tell by {sound} that it was {hour}.
The {ta} and the {tb} agreed about {topic}, which was rare.
{A} did not like {place}: it smelled of {thing}, or so {b} used to say.
"And {topic}?" — "{View}," said {c} {manner}.
On the way to {place} they counted carts and argued about {topic}.
{B} took {thing} from the shelf, looked at it {manner}, and put it back beside {thing2}.
It is said in {place} that {view}, and that {view2}.
{A} had not slept well; {sound} had gone on all night, and there was {topic} to think of.
Two things were known about {c}: the affair of {topic}, and a fondness for {thing}.
"Give me {thing}," said {b}, "and I will tell you about {topic}."
Then {weather}, and everybody moved into {place}.
What {a} wanted was {thing}; what {a} got was {thing2} and some advice.
The {tb} nodded {manner}, since {view}.
In {place}, {hour}, one might see {c} with {thing} under one arm.
"Whose is {thing}?" asked the {tc} {manner}, but {a} only {deed}.
Little was said about {topic} on the way, and that little was said {manner}.
{A} would have preferred {place}, where at least there was {sound}.
Although {weather}, {b} {deed} and {deed2}.
{C} kept {thing} for thirty years in {place} without once asking what it was for.
It began with {topic} and ended, as so often, with {topic2}.
The news about {topic} reached {place} {hour}.
{A} {deed}; {b} {deed2}; {c} did nothing and was praised for it.
"{View}," the {ta} used to say, {manner}, to anyone who brought {thing}.
Behind {place} lay {thing}, half covered with leaves.
{Hour}, {a} and {b} met once more at {place}.
Hardly had {a} {deed} when {sound} was heard from {place}.
{B} described {topic} so {manner} that {c} felt {feeling}.
It was the {tb} who first spoke of {topic}, {hour}, in front of {place}.
No one could have said why {thing} was kept in {place} and {thing2} in {place2}.
"At least," said {a}, "{view}."
They found {c} in {place}, busy with {thing}.
The {ta} had one rule: never to discuss {topic} {hour}.
Suddenly there was {sound}, and {b} {deed}.
Of {topic} {a} spoke {manner}, of {topic2} not at all.
{A} wrote to {b} about {topic}, enclosing a drawing of {thing}.
The letter from {c} said only that {weather} and that {view}.
Once, {hour}, {b} had seen {thing} fall from a cart near {place}.
"If {view}," {c} reasoned, "then {topic} is none of our business."
It took {a} until evening to find {place}, and by then {weather}.
While {b} {deed}, {a} thought of {topic} with {feeling}.
The children ran to {place} to look at {thing}.
Every year, {hour}, the {tc} {deed} and nobody knew why.
{A} had inherited {thing} from the {tb}, together with {feeling}.
Near {place} they were overtaken by {c}, who {deed} and went on.
"I have heard {sound} all day," complained the {ta}, "and it is {hour}."
{B} would sooner have lost {thing} than admit that {view}.
On the table lay {thing}, {thing2} and a note about {topic}.
Only {c} saw the connection between {topic} and {thing}.
That {weather} did not keep {a} from {place}.
The talk in {place} was of {topic}; {b} listened {manner}.
First {a} {deed}, then {b} {deed2}, and so the day at {place} went by.
{C} came in, {manner}, and put {thing} on the floor.
There was something about {place} {hour} that filled {b} with {feeling}.
"You may laugh," said the {tb} {manner}, "but {view}."
In the corner stood {thing}, and nobody could explain {topic} without pointing at it.
Had {a} only {deed}, the business of {topic} might have ended differently.
To reach {place} one had to pass {place2}, where {weather} as a rule.
{A} the {ta} had a brother who knew all about {topic} and nothing about {thing}.
It was not {sound} that woke {c}, but {feeling}.
As for {thing}, it was last seen in {place} {hour}.
Some went to {place} for {thing}, others for {sound}; {b} went out of {feeling}.
"Tell me again about {topic}," {a} begged, and {b} {deed} first.
The {tc} opened {place} {hour} and shut it when the talk came to {topic}.
{B} could neither praise {thing} nor do without it.
They had walked from {place} to {place2} before {a} mentioned {topic}.
{Weather}; {a} {deed}; it was {hour} and nobody came.
A person who {deed} {manner} can be trusted with {thing}, thought {c}.
{A} noticed {sound} and, under it, very faintly, {sound2}.
For the sake of {topic}, {b} even {deed}.
What remained of {topic} was {thing}, and {feeling}.
The more {c} talked about {topic}, the less {a} believed it.
In the house of the {ta}, {thing} had a place of honour.
"Why {place}?" asked {b}, and {a} replied that {view}.
{Hour}, when {weather}, the {tb} and the {tc} played cards in {place}.
Both {a} and {b} had {feeling}, though for different reasons: {topic}, and {topic2}.
It was {c} who {deed}, and {c} who afterwards complained about {thing}.
By then {place} was empty, except for {thing}.
The reason, {a} explained {manner}, was {topic}.
{B} the {tb} walked up and down in {place} as if {view}.
Not far from {place} somebody had lit a fire; {weather}.
"It must have been {hour}," said {c}, "because I remember {sound}."
{A} put {thing} next to {thing2} and compared them {manner}.
Anyone who has carried {thing} to {place} knows that {view}.
They agreed to meet in {place} {hour}, and to bring {thing}.
Nothing was decided about {topic}; {b} {deed} and the {tc} went home.
{A} praised {place}, {b} praised {place2}, and both were thinking of {topic}.
There was {thing} for everyone who {deed}, said the {ta} {manner}.
Under the stairs of {place} the {tb} discovered {thing}.
"{View}," {a} repeated, "even when {weather}."
In the end {b} {deed}, which surprised nobody who knew about {topic}.
{C} could not hear {sound} without thinking of {place}.
When they asked the {ta} about {topic}, the answer was {thing}.
{A} went to {place}, {b} stayed with {thing}, and {c} {deed}.
The first to arrive at {place} was the {tc}, with {thing} and {feeling}.
"Not {hour}," said {b}, "and not with {thing}."
The door of {place} stood open, and {sound} could be heard.
All that {a} knew of {topic} had been learned from the {tb}.
{Weather}, so {c} {deed} and read aloud about {topic}.
It pleased {b} that {thing} was still in {place}.
It cannot have been {thing} that {a} saw near {place}, for {weather}.
{A} used to dream of {place}, always {hour}, always with {sound}.
The quarrel between the {ta} and the {tc} had begun over {thing}.
Instead of answering, {b} {deed}, {manner}.
After {topic} there was nothing left to discuss but {topic2}.
{C} admired the way in which {a} {deed} {manner}.
"Has anyone seen {thing}?" called the {tb} from {place}.
Twice {b} {deed}, and twice {sound} was the only answer.
They ate in {place}, {manner}, and nobody touched {thing}.
If one stood in {place} {hour}, one could hear {sound}.
{A} once traded {thing} for {thing2} and called it wisdom.
It rarely happened that {b} {deed}; {view}, after all.
The {tc} had seen {topic} coming and had {feeling}.
"Then we shall go to {place}," decided {a}, "and take {thing} with us."
Under {thing} they found a page about {topic}, in the hand of the {ta}.
{B} did not answer, for {sound} had made {a} turn round.
{Hour} there was always somebody in {place} who believed that {view}.
{C} asked after {topic}, asked after {topic2}, and {deed}.
The road from {place} was bad, {weather}, and the {tb} was late.
{A} sold {thing}, kept {thing2}, and spoke no more of {topic}.
Whether {b} {deed} or not made little difference to {topic}.
It was a day for {place}, thought {c}, not for {topic}.
The {ta} showed them {thing} and waited {manner} for applause.
"{View}," wrote {b} on the margin of a paper about {topic}.
Everything in {place} reminded {a} of {topic}: {thing}, {sound}, even the light.
They were still talking about {topic} when {c} {deed}.
As {weather}, {thing} had to be carried to {place} by hand.
{B} opened {place} with a borrowed key and found {thing}.
People came from as far as {place} to hear {a} speak of {topic}.
The {tb} was right: {view}, and {topic} proved it.
{A} looked at {thing} with {feeling} until {b} {deed}.
{C} never passed {place} {hour} without stopping for {sound}.
"As long as {weather}," said the {tc}, "there is time for {topic}."
Because {b} {deed}, the others forgave the remark about {topic}.
Late or not, {a} {deed}; {hour} it made no difference.
And so {thing} came back to {place}, and {a} to {topic}.
One evening {b} the {tb} {deed}, took {thing} and was not seen in {place} again.
It is hard to say what {a} feared more, {topic} or {sound}.
With {thing} between them, {a} and {c} spoke {manner} about {place}.
The matter of {topic} was older than {place}, and {c} felt {feeling} at the thought.
{A} asked three people the way to {place}; each of them mentioned {topic}.
Nobody in {place} knew more about {topic} than the {tc}, who {deed} {manner}.
"This," said {c} of {thing}, "is what comes of {topic}."
The floor of {place} was wet, because {weather}, and {b} slipped {manner}.
Whenever {sound} stopped, {a} looked up from {thing}.
In {place} hung a notice about {topic}, signed by the {ta} and the {tb}.
They might have gone on {manner} about {topic}, but {weather}, and that sent them home.
{B} said that {view}; {c} said nothing and {deed}.
What use is {thing}, {a} wondered, to someone who lives near {place}?
Only {hour} did {c} admit to {feeling}.
{A} owed the {tc} {thing}, and the {tc} owed {a} an explanation of {topic}.""".splitlines()
)
NUMBER_PATTERNS = tuple(
    """{A} paid {n} crowns for {thing}.
The ledger in {place} gave {n} as the figure for {topic}.
"It was {n}," said {b}, "and not {n2}."
On the door of {place} somebody had painted {n}.
{C} the {tc} counted {n} steps from {place} to {place2}.
Page {n} of the almanac dealt with {topic}.
There were {n} sacks in {place}, and {b} {deed}.
The lot with the mark {n} held {thing} and {thing2}.
In the year {n}, {weather}, as the {ta} used to tell.
{A} wrote {n} on a slip of paper and hid it under {thing}.
Parcel {n} was addressed to the {tb}, parcel {n2} to nobody.
The clock in {place} had been made by hand and bore the number {n}.
For {n} days {sound} was all that one heard in {place}.
"{N} people," said the {tc} {manner}, "and every one of them talked of {topic}."
{B} had asked {n} for {thing}; {a} offered {n2}.
The bill for {topic} came to {n}.
Of the {n} letters that {c} wrote, most were about {topic}.
The mark on {thing} read {n}, which told {a} nothing.
House {n} stood empty, house {n2} smelled of {thing}.
{A} lived at number {n}, not far from {place}.
The number over the gate of {place} was {n}, in faded paint.
Between {n} and {n2} tiles were missing from the roof of {place}.
The {tb} remembered {n} winters, or said so {manner}.
A ticket with the number {n} lay beside {thing}.
Receipt {n} was signed by {c} {hour}.
It weighed {n} pounds, more than {thing} and {thing2} together.""".splitlines()
)
