"""The small languages of the arguments."""

from __future__ import annotations

from typing import Any

import pytest

from longctx.errors import UserError
from longctx.eval.format import show_depth, show_length
from longctx.eval.needle.config import NeedleConfig, parse_depths, parse_lengths, parse_methods
from longctx.eval.needle.inference import samples_needed


def test_lengths() -> None:
    assert parse_lengths("12K, 2k,2048,1M,1.5K") == (1536, 2048, 12288, 1048576)


@pytest.mark.parametrize("text", ["", "0", "-1", "2G", "1.3333K", "K", "1e3"])
def test_bad_lengths(text: str) -> None:
    with pytest.raises(UserError, match="--lengths"):
        parse_lengths(text)


def test_depths() -> None:
    assert parse_depths("50, 10%,90.5") == (10.0, 50.0, 90.5)
    assert parse_depths("3") == (0.0, 50.0, 100.0)
    assert parse_depths("11")[1] == 10.0
    assert parse_depths("1") == (50.0,)
    assert len(parse_depths("21")) == 21 and parse_depths("n=50") == parse_depths(" n=50 ")
    assert parse_depths("n=41")[1] == 2.5 and parse_depths("n=5")[1] == 25.0
    assert parse_depths("50%") == parse_depths("50,") == (50.0,)


@pytest.mark.parametrize("text", ["0", "101,5", "x", "-5,5", "1002", ","])
def test_bad_depths(text: str) -> None:
    with pytest.raises(UserError, match="--depths"):
        parse_depths(text)


@pytest.mark.parametrize("text", ["22", "50", "100"])
def test_a_number_that_looks_like_a_depth_asks_which_it_is(text: str) -> None:
    meant = f"--depths {text}: one depth, or {text} of them.*{text}% for the depth, n={text} for"
    with pytest.raises(UserError, match=meant):
        parse_depths(text)


@pytest.mark.parametrize("text", ["0", "n=0", "n=1002", "500000"])
def test_a_count_has_bounds(text: str) -> None:
    with pytest.raises(UserError, match=f"--depths {text}: one number is a count from 1 to 1001"):
        parse_depths(text)


def test_methods_keep_their_order() -> None:
    assert parse_methods("yarn+dca, none,yarn+dca") == ("yarn+dca", "none")
    with pytest.raises(UserError, match="--methods"):
        parse_methods(" ,")


def test_labels() -> None:
    assert [show_length(n) for n in (12288, 1048576, 1000, 1500)] == ["12K", "1M", "1000", "1500"]
    assert [show_depth(d) for d in (0.0, 33.333, 50.0)] == ["0%", "33.333%", "50%"]


@pytest.mark.parametrize(
    ("setting", "flag"),
    [({"repeats": 0}, "--repeats 0"), ({"limit": 0}, "--limit 0"), ({"template": "x"}, "--temp")],
)
def test_settings_are_checked(setting: dict[str, Any], flag: str) -> None:
    with pytest.raises(UserError, match=flag):
        NeedleConfig(**setting)


def test_the_least_that_can_pass_is_the_default() -> None:
    config = NeedleConfig()
    assert config.texts == "own"
    assert len(config.depths) * config.repeats == samples_needed() == 22
