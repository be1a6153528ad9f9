"""What the colours say to every kind of eye, by simulation (Machado, Oliveira, Fernandes 2009).

The matrices are those of full severity and act on linear RGB. They are checked too: a grey must
stay a grey.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from longctx.plots.palette import RGB, difference_colour, palette

Colour = npt.NDArray[np.float64]
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
    "black and white": np.tile([0.2126, 0.7152, 0.0722], (3, 1)),
}


def seen(colour: RGB, eye: str) -> Colour:
    """Linear RGB as this eye has it."""
    parts = np.array(colour) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return np.clip(VISION[eye] @ linear, 0, 1)


def lightness(linear: Colour) -> float:
    """L* of CIELAB, 0 to 100: equal steps look equal."""
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


def lab(linear: Colour) -> Colour:
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = to_xyz @ linear / [0.9505, 1.0, 1.089]
    roots = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * roots[1] - 16, 500 * (roots[0] - roots[1]), 200 * (roots[1] - roots[2])])


@pytest.mark.parametrize("eye", VISION)
def test_the_simulation_leaves_grey_alone(eye: str) -> None:
    assert seen(RGB(128, 128, 128), eye) == pytest.approx(
        seen(RGB(128, 128, 128), "normal"), abs=1e-5
    )


@pytest.mark.parametrize("eye", VISION)
def test_a_higher_score_is_lighter_for_every_eye(eye: str) -> None:
    steps = [lightness(seen(palette().colour(step / 20), eye)) for step in range(21)]
    assert all(low < high for low, high in itertools.pairwise(steps))
    assert steps[-1] - steps[0] > 60


@pytest.mark.parametrize("eye", VISION)
def test_fifths_are_told_apart_by_every_eye(eye: str) -> None:
    """The scores of five samples: neighbours differ by twice what can just be seen (2.3)."""
    fifths = [lab(seen(palette().colour(k / 5), eye)) for k in range(6)]
    assert min(np.linalg.norm(a - b) for a, b in itertools.pairwise(fifths)) > 4.6


@pytest.mark.parametrize("eye", [eye for eye in VISION if eye != "black and white"])
def test_better_and_worse_are_told_apart_by_every_eye(eye: str) -> None:
    for size in (0.2, 0.5, 1.0):
        worse, better = (lab(seen(difference_colour(sign * size), eye)) for sign in (-1, 1))
        assert np.linalg.norm(worse - better) > 20


@pytest.mark.parametrize("eye", VISION)
def test_differences_darken_away_from_zero_for_every_eye(eye: str) -> None:
    for sign in (-1, 1):
        steps = [lightness(seen(difference_colour(sign * step / 10), eye)) for step in range(11)]
        assert all(low > high for low, high in itertools.pairwise(steps))


def test_the_classic_palette_is_not_safe() -> None:
    """Why it is not the default: its order is lost."""
    steps = [lightness(seen(palette("classic").colour(k / 10), "normal")) for k in range(11)]
    assert not all(low < high for low, high in itertools.pairwise(steps))
