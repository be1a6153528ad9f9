"""Names of needles in training: none of them is one that `longctx needle` asks for.

A model that had seen the names of the test could have learnt them; so training draws from other
words, from people and from words that do not exist.
"""

from __future__ import annotations

import random

from longctx.eval.texts.prose_en import NAMES

# fmt: off
_FIRST = (
    "ancient", "azure", "bashful", "bitter", "blazing", "bold", "brazen",
    "bright", "calm",
    "careful", "charcoal", "cheerful", "clever", "cloudy", "cobalt", "crimson", "crooked",
    "curious",
    "damp", "dizzy", "dusty", "early", "earnest", "emerald", "faded", "fearless", "feathered",
    "fickle", "fragrant", "gentle", "ginger", "glassy", "golden", "grand", "grey", "hasty",
    "hidden",
    "honest", "humble", "indigo", "jolly", "joyful", "kindly", "lavender", "lazy", "little",
    "lively",
    "lonely", "loud", "lucky", "marble", "merry", "misty", "modest", "muddy", "narrow", "noble",
    "northern", "odd", "olive", "orange", "pale", "peculiar", "plain", "polite", "proud", "purple",
    "rapid", "restless", "rosy", "rough", "royal", "ruby", "sandy", "scarlet", "secret", "shady",
    "sleepy", "smoky", "solemn", "southern", "spotted", "stormy", "striped", "sturdy", "sunny",
    "tame", "tender", "thirsty", "tiny", "twisted", "upright", "vivid", "wandering", "western",
    "wild", "winding", "wise", "yellow", "young",
)
_SECOND = (
    "acorn", "almond", "apple", "arrow", "badger", "barrel", "basin", "beetle", "bottle",
    "boulder",
    "bramble", "bucket", "button", "cabin", "camel", "candle", "canyon", "castle", "cedar",
    "cherry",
    "chimney", "clover", "comet", "copse", "cottage", "cradle", "cricket", "crystal", "cupboard",
    "daisy", "desert", "donkey", "dragon", "eagle", "ember", "feather", "fern", "fiddle", "forest",
    "fountain", "garden", "garnet", "gazelle", "goblet", "hammer", "hawthorn", "hedgehog", "heron",
    "hillside", "iceberg", "ink", "jackdaw", "jasmine", "jewel", "kingfisher", "ladder",
    "lagoon", "lemon", "leopard", "lily", "locket", "magpie", "mango", "maple", "marmot", "mirror",
    "monsoon", "mountain", "mushroom", "oak", "oasis", "olive", "otter", "owl", "parsley", "pebble",
    "pepper", "pigeon", "planet", "pond", "poplar", "puzzle", "rabbit", "raven", "ribbon", "river",
    "rocket", "saddle", "salmon", "shadow", "sparrow", "spindle", "squirrel", "temple", "thunder",
    "tiger", "trumpet", "tulip", "turnip", "valley", "violet", "walnut", "willow", "wolf", "wren",
)
_SYLLABLES = (
    "ba", "be", "bo", "da", "de", "di", "fa", "fo", "ga", "go", "ha", "he", "ka", "ke", "ki", "la",
    "le", "lo", "lu", "ma", "mi", "mo", "na", "ne", "no", "nu", "pa", "pe", "po", "ra", "re", "ri",
    "ro", "sa", "se", "si", "ta", "te", "ti", "to", "tu", "va", "vi", "wa", "ya", "za", "ze", "zo",
    "l", "m", "n", "r", "s", "t", "k", "st", "nd", "rk",
)
# fmt: on


def training_key(rng: random.Random, like: str | None = None) -> str:
    """A needle's name: two words, a person, or made-up words. `like` shares a word with it."""
    kind = rng.random()
    if like is not None and "-" in like:
        first, second = like.split("-")
        return f"{first}-{rng.choice(_SECOND)}" if kind < 0.5 else f"{rng.choice(_FIRST)}-{second}"
    if kind < 0.6:
        return f"{rng.choice(_FIRST)}-{rng.choice(_SECOND)}"
    if kind < 0.75:
        return rng.choice(NAMES)
    return f"{_made_up(rng)}-{_made_up(rng)}"


def _made_up(rng: random.Random) -> str:
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(2, 4)))
