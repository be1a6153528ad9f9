"""Prose without end: the haystack for whoever brings none. Seeded, English, and nobody's property.

Sentences come from patterns over word lists, in scenes: a paragraph keeps its people, place and
hour, so that neighbouring sentences belong together and distant ones differ. There are no digits,
so a number hidden in it cannot be mistaken. Knows nothing of tokens.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from longctx.eval.haystack import Haystack

# Part of the haystack's identity: other words are another text.
VERSION = 1
_SMALLEST = 1 << 20
# English prose has more than this many characters to a token under every vocabulary of today;
# spare text lets repeats start at different places.
_CHARACTERS_PER_TOKEN = 9

_NAMES = """Ada|Anselm|Beatrix|Bruno|Celia|Conrad|Dorothea|Edmund|Elsie|Farid|Flora|Gideon|Greta
|Hanna|Hector|Imogen|Ivo|Jasper|Juno|Kamala|Leander|Lotte|Marius|Mina|Nadia|Noor|Oskar|Ottilie
|Pavel|Petra|Quentin|Rosalind|Ruben|Sefa|Silas|Tamsin|Theo|Una|Viktor|Willa|Yusuf|Zora"""
_TRADES = """apothecary|baker|bell founder|bookbinder|carpenter|cartographer|clockmaker|cooper
|ferryman|gardener|glazier|harbour pilot|innkeeper|lamplighter|librarian|lighthouse keeper|mason
|midwife|miller|organist|potter|schoolteacher|shepherd|surveyor|tailor|weaver"""
_PLACES = """the old harbour|the upper market|the grain hall|the ferry landing|the botanical garden
|the reading room|the north gate|the tannery yard|the music school|the salt warehouse|the hill road
|the mill pond|the observatory steps|the covered bridge|the fish quay|the orchard behind the chapel
|the customs house|the signal tower|the rope walk|the almshouse kitchen|the quarry path
|the winter stables|the print shop|the drowned meadow"""
_HOURS = """early in the morning|towards noon|in the slack hour after lunch|late in the afternoon
|at dusk|long after supper|before the first bell|on the last evening of the fair
|on a Sunday in the wet season|when the tide had turned|between two showers
|in the third week of the frost|on the day after the election|while the choir was rehearsing"""
_WEATHER = """a thin rain was falling|the fog would not lift|the wind had gone round to the east
|the first snow lay on the sills|the heat stood in the street like a wall|the clouds hung low
|the light was clear and rather cold|thunder was grumbling beyond the hills|the river had risen
|the air smelled of tar and wet wool|a pale sun was doing its best|the ice was breaking up"""
_THINGS = """a ledger bound in green cloth|a box of brass weights|a map with one corner burnt
|a basket of quinces|a broken barometer|three letters tied with string|a cage without a bird
|a bolt of undyed linen|a jar of copper nails|a fiddle in need of strings|a lamp with a blue shade
|a packet of foreign seeds|a clock that ran backwards|a coat that had belonged to someone taller
|a tray of type|a coil of tarred rope|a portrait of nobody in particular|a key as long as a hand
|a notebook of recipes|a wheel of hard cheese|a telescope on a wooden stand|a cracked bell"""
_TOPICS = """the price of timber|the new bridge|what the surveyor had found|the missing inventory
|a cousin's wedding|the proper way to graft a pear tree|the school roof|the quarrel over the well
|a ship that was overdue|the council's latest notice|the tuning of the great organ
|whether the ferry should run at night|an inheritance that pleased nobody|the habits of swifts
|a play that had been forbidden elsewhere|the cost of candles|the language of the hill people
|how maps are made to lie|a debt from before the flood|the weather of other years"""
_MANNERS = """patiently|with some reluctance|in a low voice|as if it were nothing|rather too quickly
|without looking up|with evident pleasure|for the second time that week|against all advice
|with the care of a person carrying eggs|more loudly than was needed|half in earnest"""
_VIEWS = """nobody had asked the right question|the simplest account was usually the true one
|patience was a kind of cleverness|the town had changed less than people claimed
|every repair begins with taking something apart|a promise made in haste is still a promise
|the old custom had a reason, even if it was lost|one ought to measure before one quarrels
|there is more work in an apology than in a fence|the young were no worse than they had been
|most secrets are only things that nobody wrote down|luck had been given too much credit"""
_DEEDS = """mended the shutters|counted the sacks again|wrote the whole affair down|lit the stove
|walked back by the longer way|sent for the carpenter|closed the account|opened the side door
|copied the inscription|emptied the shelves|read the notice aloud|weighed the parcel
|drew a plan of the cellar|washed the brushes|put the chairs in a circle|tried the lock"""
_PATTERNS = """{A} the {ta} came to {place} {hour}, carrying {thing}.
It was {hour}, and {weather}.
"{View}," said {a}, and went on sorting the papers on the table.
{B} had brought {thing}, which was set down beside the door and not mentioned again.
They spoke {manner} of {topic}, and then of {topic2}.
Nobody in {place} remembered who had left {thing} there.
{A} {deed} and {deed2}, {manner}, while {weather}.
"Is it true about {topic}?" asked {b}.
The answer, when it came, concerned {topic} rather than {topic2}.
At {place} there was a long table, and on it lay {thing} and {thing2}.
If {a} was surprised, it did not show; {b} merely {deed}.
What struck {b} most was not {topic} but the way in which everybody avoided {topic2}.
{A} held that {view}, and {b} that {view2}; on this they had disagreed for years.
Since {weather}, the walk to {place} took longer than usual.
In those years {topic} was discussed in every kitchen, usually {manner}.
{B} laughed.
So the afternoon passed.
There was a silence, in which one could hear the carts on the hill.
Before going home, {a} {deed}, because {view}.
"I would rather talk about {topic}," {b} answered {manner}, "for {view}."
Someone had written on the wall of {place} that {view}.
Neither of them noticed that {thing} was gone until {c} the {tc} pointed it out.
{C} the {tc}, who had been listening, {deed} and said that {view}.
For a while they watched the water, and the conversation turned to {topic}.
It would have been easy to blame {c}, and several people did so {manner}.
Later, when {topic} had been settled, {a} gave {thing} to {b} and kept {thing2}.
The window looked out on {place}, where {weather} and a few people were waiting.
"You have {thing} in your bag," {c} observed, "and yet you speak of {topic}."
{A} remembered {hour} of another year, when {b} {deed} for no reason at all.
Whoever wants to understand {topic} must first have seen {place} {hour}."""


def _words(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("|")]


_LISTS = {
    "place": _words(_PLACES),
    "hour": _words(_HOURS),
    "weather": _words(_WEATHER),
    "thing": _words(_THINGS),
    "topic": _words(_TOPICS),
    "manner": _words(_MANNERS),
    "view": _words(_VIEWS),
    "deed": _words(_DEEDS),
}
_NAME_LIST, _TRADE_LIST = _words(_NAMES), _words(_TRADES)
_PATTERN_LIST = _PATTERNS.splitlines()
_SLOT = re.compile(r"\{(\w+?)(2?)\}")


def haystack(longest: int, seed: int = 0) -> Haystack:
    """Text enough for prompts of `longest` tokens, the same for all lengths up to a size class."""
    size = _SMALLEST
    while size < longest * _CHARACTERS_PER_TOKEN:
        size *= 2
    parts: list[str] = []
    length = 0
    for paragraph in paragraphs(seed):
        parts.append(paragraph)
        length += len(paragraph) + 2
        if length >= size:
            break
    return Haystack.from_text("\n\n".join(parts), f"generated prose {VERSION}, seed {seed}")


def paragraphs(seed: int) -> Iterator[str]:
    """Scenes, for ever."""
    rng = random.Random(f"longctx prose {VERSION} {seed}")
    while True:
        people = rng.sample(_NAME_LIST, 3)
        scene = {name: rng.sample(words, min(4, len(words))) for name, words in _LISTS.items()}
        trades = rng.sample(_TRADE_LIST, 3)
        patterns = rng.sample(_PATTERN_LIST, rng.randint(4, 9))
        yield " ".join(_sentence(rng, pattern, people, trades, scene) for pattern in patterns)


def _sentence(
    rng: random.Random,
    pattern: str,
    people: list[str],
    trades: list[str],
    scene: dict[str, list[str]],
) -> str:
    drawn = {name: rng.sample(words, 2) for name, words in scene.items()}

    def fill(match: re.Match[str]) -> str:
        slot, second = match.groups()
        if len(slot) == 1:
            return people["abc".index(slot.lower())]
        if slot in ("ta", "tc"):
            return trades["abc".index(slot[1])]
        word = drawn[slot.lower()][1 if second else 0]
        return word[0].upper() + word[1:] if slot[0].isupper() else word

    return _SLOT.sub(fill, pattern)
