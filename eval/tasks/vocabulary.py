"""English words that tasks draw keys and lists from. Written for this project; no digits.

Knows nothing of tasks. Part of their wording: a change here changes prompts.
"""

from __future__ import annotations


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _split(
    """able agile airy alert ample ancient angular aquatic arctic ardent arid artful atomic autumnal
awake azure balmy barren basic bitter bland blunt bold bouncy brave breezy brief bright brittle
broad bronze bubbly bulky buoyant calm candid careful casual cautious central chilly chosen
chubby civic classic clean clear clever cloudy coarse coastal cobalt colossal comic common
compact cosmic cosy crafty creamy crimson crisp crooked crucial crunchy curious curly cyclic
damp daring dazzling decent deep delicate dense devout dim direct distant double drowsy dry
dusky dusty early earnest eastern easy edible elastic elder elegant emerald empty endless equal
even exact fabled faint fair familiar famous fancy fearless feathered fertile festive fierce
fiery final fine firm fleet flexible floral fluent fluffy foggy fond formal fragile frank free
fresh frugal full fuzzy gallant gaunt generous gentle giant glad gleaming glossy golden graceful
grand granular grateful grave greedy green gritty handy happy hardy hasty hazy heavy hidden
honest humble hungry icy ideal idle immense inland inner jolly jovial joyful juicy kind knotted
large lasting late lavish lazy leafy lean level light likely linear liquid lively local lofty
lone long loud loyal lucid lucky lush magnetic major maple marine massive mature meagre merry
mighty mild minor misty mobile modern modest moist mossy muddy musical muted narrow native neat
neutral noble noisy northern novel oaken oblong odd olive open orderly ornate outer oval pale
paper parallel patchy peaceful pearly perfect plain playful pleasant plump plush polar polite
portable prime private proud pure purple quaint quick radiant rapid rare ready recent regal
remote rich rigid ripe robust rocky round royal rugged rural sacred salty sandy scarlet scenic
secret serene shady shallow sharp shiny short shy silent silken simple sincere sleek slender
slim slow small smoky smooth snowy sober soft solar solemn solid sonic sour southern spare spicy
spiral stable stark steady steep stern still stout straight striped strong sturdy subtle sudden
sunlit sunny supple sweet swift tall tame tangled tart tender thick thin thirsty thorny timid
tiny tough tranquil tropical true twin urban usual vacant vast verdant vintage violet vital
vivid warm wary wavy western wide wild windy wise wistful wooden woolly young zealous"""
)
NOUNS = _split(
    """abbey acorn alcove almond alpine altar amulet antler apricot apron arcade archer armchair arrow
ash attic autumn avenue axle badger badge bakery balcony ballad banjo banner barge barley barn
barrel basin basket bassoon battery bayonet beach beaker beam bear beetle bell bench berry
bicycle birch biscuit bison blanket blossom boat bonnet bookcase boot bottle boulder bowl
bracelet branch brass bread brick bridge broom brush bucket buckle buffalo bugle bunker butter
button cabbage cabin cable cactus cake camel canal candle canoe canvas canyon cape caravan cargo
carpet carrot cart castle cave cedar cellar cello chain chalk chapel cherry chess chestnut
chimney chisel cider cinema circle circus citadel clarinet cliff cloak clock cloud clover coach
cobbler coffee collar column comet copse coral cork corner cottage cotton courier cradle crane
crater crayon creek crest cricket crown crystal cuckoo cup curtain cushion cymbal daisy dam
dance dawn deer desert desk diamond diary dinner dock dolphin donkey door dove dragon drawer
dream drum dune dust eagle easel echo eel elbow elm ember envelope estuary fabric factory fairy
farm feather fence fern ferry fiddle field fig flag flame flask flint flower flute forest forge
fork fossil fountain fox freight fridge frog fruit furnace galaxy gallery garden garlic garnet
gate gazelle ginger glass glove goat goblet goose granary granite grape gravel grove guitar gull
hammer hammock harbour harp harvest hat hawk hay hazel hedge helmet heron hill hinge holly honey
hook horizon horn horse hotel hound house hut hymn ibis igloo ink inn iron island ivy jacket jar
jasmine jewel jug jungle kayak kennel kernel key kitchen kite knapsack knife knot ladder lagoon
lake lamp lane larch lark lattice lavender lawn leaf leather ledger lemon lentil letter lever
library lichen lily lime linen lion lizard lobster lock locket log loom lute lynx magnet magpie
mantle map marble market mask mast mattress maze melon meteor mill mine mint mirror mitten moat
monsoon moon moor moose morning moss moth mountain mouse museum mustard needle nest net nettle
nickel night nutmeg oak oar oasis oatmeal ocean octopus olive onion opal orbit orchid organ
otter oven owl oyster paddle palace palm panther parcel parchment park parrot parsley pasture
path pavilion peach peacock pear pebble pedal pencil pendulum pepper petal piano pier pigeon
pillar pillow pine pipe planet plate plaza plough plum pocket pollen pond pony poplar poppy
porch port portrait pot prairie prism pulley pumpkin puppet pyramid quail quartz quill quilt
rabbit radish raft rail rain ramp raven reed reef ribbon rice ridge ring river road robin rocket
roof rooster rope rose rudder ruler saddle saffron sail salmon salt sandal satchel sauce scarf
school scissors screen seal seed shadow shawl shed shell shelf shield ship shoe shore shovel
shrub signal silk silo skate sketch sled slipper slope smoke snail snow soap socket sofa soup
spade spark sparrow spear spider spindle spoon spring spruce squirrel stable stadium stair stamp
star statue steam steeple stem stone stool storm stove straw stream street sugar summit swamp
swan syrup table tablet talon tambourine tavern teapot temple tent terrace theatre thimble
thistle throne thunder ticket tiger timber toast tomato torch tower trail train treasure tree
trellis trumpet trunk tulip tunnel turbine turnip turtle tweed valley vase vault veil vessel
village vine vinegar violin volcano vulture wagon walnut walrus wardrobe water wave wax weasel
wharf wheat wheel whisker willow window winter wolf wood wool wren yacht yogurt zebra zipper"""
)
