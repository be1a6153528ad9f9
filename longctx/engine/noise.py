"""Random numbers that are a function of seed, position and token: none is kept.

The hash is the finaliser of splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
number generators"), in whole numbers of 64 bits, so that every device finds the same, and numpy
what torch does.

Shape legend: R rows, K tokens of a row.
"""

from __future__ import annotations

from longctx.engine import arrays
from longctx.engine.arrays import Array

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = 2**64


def start_of(seed: int) -> int:
    """What the keys of a seed follow from."""
    return _mixed(seed % _WORD)


def key_of(start: int, position: int) -> int:
    """What a row's numbers follow from: a signed number of 64 bits.

    Args:
        start: of `start_of`.
    """
    return _signed(_mixed((start + (position + 1) * _GOLDEN) % _WORD))


def uniform(key_R: Array, ids_RK: Array) -> Array:
    """Numbers [R, K] strictly between 0 and 1, float64, one a token id.

    Args:
        key_R: int64, of `key_of`.
        ids_RK: int64; a token has the same number wherever in the row it stands.
    """
    word_RK = (ids_RK + 1) * _signed(_GOLDEN) + key_R[:, None]
    word_RK = (word_RK ^ _shifted(word_RK, 30)) * _signed(_FIRST)
    word_RK = (word_RK ^ _shifted(word_RK, 27)) * _signed(_SECOND)
    word_RK = word_RK ^ _shifted(word_RK, 31)
    # 52 bits and a half: neither end is reached, and float64 has all of it.
    return (arrays.cast(_shifted(word_RK, 12), "float64") + 0.5) * 2.0**-52


def exponential(key_R: Array, ids_RK: Array) -> Array:
    """Exponential variates [R, K], above 0: the largest of w over these draws by the weights w."""
    found_RK: Array = -arrays.library(ids_RK).log(uniform(key_R, ids_RK))
    return found_RK


def _shifted(word_RK: Array, bits: int) -> Array:
    """To the right, with zeros coming in."""
    return (word_RK >> bits) & (2 ** (64 - bits) - 1)


def _mixed(word: int) -> int:
    word = (word ^ word >> 30) * _FIRST % _WORD
    word = (word ^ word >> 27) * _SECOND % _WORD
    return word ^ word >> 31


def _signed(word: int) -> int:
    return word - _WORD if word >= _WORD // 2 else word
