"""What the rules claim wrongly and what they see, for models whose texts differ: by simulation.

`benchmarks/certainty.py` has the same with more runs, and through prompts and run folders. With so
many runs a rate of 5 % is seen as 7.4 % or more in one of a thousand tests.
"""

from __future__ import annotations

import math

import clustered_sim as sim
import pytest

from longctx.eval.clustered import clustered_interval
from longctx.eval.needle.certainty import sentences
from longctx.eval.needle.close import pass_chance
from longctx.eval.needle.inference import FIXED, Looks, pooled_interval, samples_needed, shared
from longctx.eval.sequential import anytime_interval
from longctx.eval.stats import wilson

RUNS, MAPS = 800, 150
PLANNED = [design for design in sim.DESIGNS if not design.adaptive]
ADAPTIVE = [design for design in sim.DESIGNS if design.adaptive]
NOISE = 3.1 * math.sqrt(0.05 * 0.95 / RUNS)


def test_samples_choose_their_interval() -> None:
    own, pairs = [[1.0]] * 20 + [[0.0]] * 2, [[1.0, 1.0]] * 10 + [[0.0, 0.0]]
    assert pooled_interval(own) == wilson(20, 22)
    assert pooled_interval(pairs) == clustered_interval(pairs)
    assert pooled_interval(own, Looks(5)) == anytime_interval(20, 22)
    assert pooled_interval(pairs, Looks(5)) == clustered_interval(pairs, 0.01)
    assert (shared(own), shared(pairs)) == (False, True)
    # Of one depth there is nothing that texts could share.
    assert pooled_interval([[1.0], [], [0.0]]) == wilson(1, 2)
    assert pooled_interval([]) == (0.0, 1.0)
    assert (samples_needed(), samples_needed(Looks(2)), samples_needed(Looks(10))) == (22, 33, 33)


def false_passes_and_coverage(design: sim.Design, rho: float, runs: int) -> None:
    rules = sim.rules_of(design)
    assert sim.passing(rules, 0.8, rho, runs) <= 0.05
    noise = 0 if design in (sim.FIRST, sim.DEFAULT) else 3.1 * math.sqrt(0.05 * 0.95 / runs)
    assert sim.coverage(rules, 0.8, rho, runs) >= 0.93 - noise


@pytest.mark.parametrize("rho", sim.CORRELATIONS)
@pytest.mark.parametrize("design", PLANNED, ids=lambda design: design.words)
def test_false_passes_and_coverage(design: sim.Design, rho: float) -> None:
    false_passes_and_coverage(design, rho, RUNS)


@pytest.mark.parametrize("design", ADAPTIVE, ids=lambda design: design.words)
def test_false_passes_and_coverage_of_runs_that_end_by_what_they_find(design: sim.Design) -> None:
    false_passes_and_coverage(design, 0.3, 60)


@pytest.mark.slow
@pytest.mark.parametrize("rho", sim.CORRELATIONS)
@pytest.mark.parametrize("design", ADAPTIVE, ids=lambda design: design.words)
def test_the_same_in_many_runs(design: sim.Design, rho: float) -> None:
    false_passes_and_coverage(design, rho, RUNS)


@pytest.mark.parametrize("rho", sim.CORRELATIONS)
@pytest.mark.parametrize(
    "design", [sim.FIRST, sim.DEFAULT, sim.SHARED], ids=lambda design: design.words
)
def test_false_stars(design: sim.Design, rho: float) -> None:
    found = sim.starring(sim.rules_of(design), 0.8, 0.8, rho, MAPS, seed=2)
    assert found <= 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / MAPS)


@pytest.mark.slow
@pytest.mark.parametrize("rho", sim.CORRELATIONS)
@pytest.mark.parametrize("design", sim.DESIGNS, ids=lambda design: design.words)
def test_false_stars_of_all_designs(design: sim.Design, rho: float) -> None:
    found = sim.starring(sim.rules_of(design), 0.8, 0.8, rho, RUNS)
    assert found <= 0.05 + NOISE


def test_what_the_rules_were_wrong_in_before() -> None:
    """That the simulation sees such things at all."""
    rules = sim.rules_of(sim.BEFORE)
    assert sim.passing(rules, 0.8, 0.6, RUNS) > 0.3
    assert sim.coverage(rules, 0.8, 0.6, RUNS) < 0.65
    assert sim.starring(rules, 0.8, 0.8, 0.3, 40) > 0.3


@pytest.mark.parametrize(
    "design", [sim.DEFAULT, sim.STANDARD, sim.ADAPTIVE], ids=lambda design: design.words
)
def test_a_model_of_98_percent_has_an_effective_length(design: sim.Design) -> None:
    assert sim.passing(sim.rules_of(design), 0.98, 0.3, 150) >= 0.8


def test_two_arms_far_apart_have_a_star() -> None:
    assert sim.starring(sim.rules_of(sim.DEFAULT), 0.95, 0.7, 0.3, 60) >= 0.8


def test_the_chance_to_pass() -> None:
    assert pass_chance(0.8, FIXED, 22) == pytest.approx(0.8**22)
    assert pass_chance(0.98, FIXED, 22) == pytest.approx(0.98**22)  # 64 %
    # One miss of 34 is allowed, and none of 33.
    assert pass_chance(0.98, FIXED, 33) == pytest.approx(0.98**33)
    assert pass_chance(0.98, FIXED, 34) == pytest.approx(0.98**34 + 34 * 0.02 * 0.98**33)
    assert pass_chance(0.98, FIXED, 55) > 0.95
    assert pass_chance(0.98, FIXED, 21) == 0.0
    # One miss of 22 and up to one of 33, or two and none.
    one, two = 22 * 0.02 * 0.98**21, 231 * 0.02**2 * 0.98**20
    twice = 0.98**22 + one * (0.98**33 + 33 * 0.02 * 0.98**32) + two * 0.98**33
    assert pass_chance(0.98, sim.DEFAULT.looks, 22) == pytest.approx(twice)
    assert twice > 0.91


def test_certainty_in_words() -> None:
    own = " ".join(sentences("own", FIXED, [[[1.0]] * 22, [[1.0]] * 55]))
    assert "rests on 22 to 55 answers, each to a text of its own." in own
    assert "reaches up to 19 points to each side" in own
    assert "80 % gets there in less than 1 % of runs, one that finds 98 % in 64 %." in own
    assert "--repeats 5, or --adaptive." in own
    many = " ".join(sentences("own", FIXED, [[[1.0]] * 55]))
    assert "98 % in 98 %." in many and "--adaptive" not in many
    shared = " ".join(sentences("shared", FIXED, [[[1.0] * 11] * 2]))
    assert "rests on 22 answers to 2 texts; answers to one text are often right" in shared
    assert "never from fewer than 10 texts" in shared
    adaptive = " ".join(sentences("own", Looks(10), [[[1.0]] * 33]))
    assert "its intervals allow for it" in adaptive
    few = " ".join(sentences("own", FIXED, [[[1.0]] * 3]))
    assert "fewer than 22 answers cannot reach" in few
    twice = " ".join(sentences("own", sim.DEFAULT.looks, [[[1.0]] * 22, [[1.0]] * 55]))
    assert "80 % gets there in less than 1 % of runs, one that finds 98 % in 92 %." in twice
    assert "misses 1 or 2 of 22 is looked at again, once, and its interval is wider" in twice
    assert "--repeats" not in twice
    assert sentences("own", FIXED, [[]]) == ["Nothing was scored, so nothing is certain."]
