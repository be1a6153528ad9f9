"""A report as one HTML file that asks nobody for anything.

Style, script and samples stand in the file itself, and a content security policy names the hashes
of the first two: nothing else may run or load, whatever a model answered. Jinja escapes every text
on the way into the page; samples travel as JSON and are put there as text by the script. Without
the script every figure is still there: titles on cells, tables under the maps.

Equal folders, style and date give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

import longctx
from longctx.eval.format import depth_name, show_depth, show_length
from longctx.eval.needle.effective import MEANING, show_effective, show_other
from longctx.eval.needle.paired import MEANING as STAR_MEANING
from longctx.eval.needle.ranking import MethodOfRun
from longctx.eval.needle.summary import certainty, show_tally
from longctx.eval.runfolder.records import Record
from longctx.plots.palette import difference_colour
from longctx.plots.perplexity_strip import scale_of
from longctx.plots.scene import ACROSS, Panel, difference_panel, scene_of
from longctx.plots.style import Style
from longctx.report import panels, perplexity, published, tasks
from longctx.report.collect import Report, ReportedNeedleRun, Versus

# Answers are a line; one that rambles is told by its beginning and its length.
_ANSWER_LETTERS = 300
_FAILURES_SHOWN = 400  # of a run; the file holds them all


def render(report: Report, style: Style, *, date: str, command: str) -> str:
    sheet, script = _part("page.css"), _part("page.js")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "length": show_length,
        "depth": show_depth,
        "shortened": shortened,
        "pretty": _pretty,
        "signed": _signed,
    }
    return environment.from_string(_part("page.html")).render(
        report=report,
        title=style.title or _title(report),
        lead=_lead(report),
        date=date,
        command=command,
        version=longctx.__version__,
        policy=_policy(sheet, script),
        style=Markup(sheet),
        script=Markup(script),
        samples=_samples(report),
        rows=_summary_rows(report, style),
        tasks=tasks.view(report.tasks),
        published=published.tables(report.published),
        published_meaning=published.MEANING,
        maps=_maps(report, style),
        within=any(_cells(one) for one in report.within),
        across=_across(report),
        strips=any(report.strips),
        across_words=ACROSS,
        unpaired=report.several_models and not report.across,
        failures=[_failures(run) for run in report.runs],
        perplexity=[perplexity.view(run) for run in report.perplexity],
        perplexity_environments=[_environment(run.results.run) for run in report.perplexity],
        scale=[style.colours.colour(step / 10).hex for step in range(11)],
        difference_scale=[difference_colour(step / 5 - 1).hex for step in range(11)],
        effective_meaning=MEANING,
        star_meaning=_star_meaning(report),
        certain=_certain(report),
        environments=[_environment(run.results.run) for run in report.runs],
    )


def shortened(text: str) -> str:
    if len(text) <= _ANSWER_LETTERS:
        return text
    return f"{text[:_ANSWER_LETTERS]}… ({len(text)} characters)"


def _part(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _policy(sheet: str, script: str) -> str:
    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; style-src 'sha256-{digest(sheet)}'; "
        f"script-src 'sha256-{digest(script)}'; base-uri 'none'; form-action 'none'"
    )


def _title(report: Report) -> str:
    models = dict.fromkeys(run.model for run in report.runs)
    models |= dict.fromkeys(run.model for run in report.perplexity)
    what = "Needle in a haystack" if report.runs else "Perplexity"
    return f"{what}: {', '.join(models)}"


def _lead(report: Report) -> str:
    """The page in one sentence, or two."""
    if not report.runs:
        return "How well each method predicts the same texts, by length."
    best, last = report.ranked[0], report.ranked[-1]
    say = _effective if best.effective.enough_samples else _found
    equals = [
        arm
        for arm in report.ranked
        if arm.effective.enough_samples == best.effective.enough_samples and say(arm) == say(best)
    ]
    names, alone = _names([report.label(arm) for arm in equals]), len(equals) == 1
    if best.effective.enough_samples:
        told = f"{names} {'holds' if alone else 'hold'} furthest: {_effective(best)}."
    else:
        told = (
            f"{names} {'is' if alone else 'are'} ahead with {_found(best)}"
            f"{'' if alone else ' each'}; for an effective length samples are lacking."
        )
    if last in equals:
        return told
    if last.effective.enough_samples:
        return f"{told} {report.label(last)} comes last: {_effective(last)}."
    return f"{told} {report.label(last)} comes last with {_found(last)}."


def _certain(report: Report) -> list[tuple[str, str]]:
    """A paragraph for each run, those with the same one together."""
    told: dict[str, list[str]] = {}
    for run in report.runs:
        told.setdefault(" ".join(certainty(run.results)), []).append(run.model)
    alone = len(told) == 1
    return [("" if alone else _names(models), words) for words, models in told.items()]


def _star_meaning(report: Report) -> str:
    tests = [
        one.difference.compared.meaning
        for one in (*report.within, *report.across)
        if one.difference.lengths
    ]
    return " ".join([STAR_MEANING, *dict.fromkeys(tests)])


def _names(labels: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *others, last = labels
    return f"{', '.join(others)} and {last}" if others else last


def _found(arm: MethodOfRun) -> str:
    tally = arm.results.tally(arm.method)
    return f"{tally.total:g} of {tally.n} needles found" if tally.n else "no score yet"


def _effective(arm: MethodOfRun) -> str:
    return _sign(show_effective(arm.effective))


def _sign(words: str) -> str:
    return words.replace(">= ", "≥ ")


def _samples(report: Report) -> Markup:
    """Per cell what was asked and answered, for the script. A `<` could end the block."""
    questions: dict[str, int] = {}
    cells: dict[str, list[list[Any]]] = {}
    for index, arm in enumerate(report.arms):
        run = report.runs[arm.run]
        for record in arm.results.chosen(arm.method):
            place = f"{index}/{record['length']}/{depth_name(record['depth'])}"
            question = questions.setdefault(str(record.get("question") or ""), len(questions))
            cells.setdefault(place, []).append(_sample(run, record, question))
    shared = [run.shared_recipe for run in report.runs]
    runs = [arm.run for arm in report.arms]
    told = {
        **{"cells": cells, "questions": list(questions), "recipes": shared, "runs": runs},
        "labels": [report.label(arm) for arm in report.arms],
    }
    text = json.dumps(told, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028"))


def _sample(run: ReportedNeedleRun, record: Record, question: int) -> list[Any]:
    return [
        record["repeat"],
        record["status"],
        shortened(str(record.get("response") or "")),
        ", ".join(str(value) for value in record.get("expected", [])),
        question,
        record.get("needle_span"),
        record.get("depth_actual"),
        record.get("prompt_tokens"),
        run.results.lines.get(record["key"]),
        record.get("error"),
        run.own_recipe(record),
    ]


def _summary_rows(report: Report, style: Style) -> list[dict[str, Any]]:
    lengths = report.lengths
    rows = []
    for arm in report.ranked:
        results, effective = arm.results, arm.effective
        cells = []
        for length in lengths:
            tally = results.pooled(arm.method, length) if length in results.lengths else None
            score = tally.score if tally else None
            words = show_tally(tally) if tally else "not in this run"
            fill = style.colours.colour(score).hex if score is not None else None
            cells.append({"score": score, "words": words, "fill": fill})
        whole = results.tally(arm.method)
        rows.append(
            {
                "label": report.label(arm),
                "model": arm.model,
                "method": arm.method,
                "arm": report.arms.index(arm),
                "trained": results.trained_length,
                "effective": _effective(arm),
                "known": effective.enough_samples,
                "ruler": _sign(show_other(effective, effective.ruler)),
                "nolima": _sign(show_other(effective, effective.nolima)),
                "cells": cells,
                "found": f"{whole.total:g}/{whole.n}",
                "others": whole.others(),
                "bar": _bar(lengths, effective.length, effective.first_fail, effective.at_least),
            }
        )
    return rows


def _bar(
    lengths: list[int], length: int | None, first_fail: int | None, at_least: bool
) -> dict[str, Any]:
    """Shares of the bar's width; lengths stand evenly, as in the maps."""

    def share(value: int | None) -> float:
        return 0.0 if value is None else round((lengths.index(value) + 1) / len(lengths), 4)

    return {"full": share(length), "pale": share(first_fail), "open": at_least}


def _maps(report: Report, style: Style) -> list[dict[str, Any]]:
    """A scene per run, its panels placed."""
    maps, scale = [], scale_of(report.strips)
    for index, run in enumerate(report.runs):
        found = [one for one in report.within if one.arm.run == index]
        compared = [one.difference for one in found] if any(map(_cells, found)) else []
        scene = scene_of(run.results, style, report.strips[index], scale, compared)
        arms = [(place, arm) for place, arm in enumerate(report.arms) if arm.run == index]
        panels = [
            _map_view(report, place, arm, panel)
            for (place, arm), panel in zip(arms, scene.panels, strict=True)
        ]
        differences = [
            _versus_view(report, one, panel)
            for one, panel in zip(found if compared else [], scene.differences, strict=True)
        ]
        maps.append({"run": run, "scene": scene, "arms": panels, "differences": differences})
    return maps


def _cells(one: Versus) -> bool:
    return bool(one.difference.cells)


def _map_view(report: Report, place: int, arm: MethodOfRun, panel: Panel) -> dict[str, Any]:
    known, label = arm.effective.enough_samples, report.label(arm)
    return {
        "index": place,
        "label": label,
        "effective": ("effective length " if known else "") + _effective(arm),
        "drawing": panels.drawing_of(panel, [str(place)], f"Needle map of {label}, {panel.told}"),
    }


def _across(report: Report) -> list[dict[str, Any]]:
    views = []
    for one in report.across:
        heading = f"{report.label(one.arm)} − {report.label(one.base)}"
        panel = difference_panel(one.arm.results, one.difference, heading)
        views.append(_versus_view(report, one, panel))
    return views


def _versus_view(report: Report, one: Versus, panel: Panel) -> dict[str, Any]:
    arms = [str(report.arms.index(side)) for side in (one.base, one.arm)]
    return {
        "drawing": panels.drawing_of(panel, arms, panel.told),
        "words": panel.heading,
        "lengths": one.difference.lengths,
        "overall": one.difference.overall,
    }


def _failures(run: ReportedNeedleRun) -> dict[str, Any]:
    failed = run.failures
    return {
        "run": run,
        "counts": sorted(Counter(record["status"] for record in failed).items()),
        "shown": [
            {
                "record": record,
                "line": run.results.lines.get(record["key"]),
                "answer": shortened(str(record.get("response") or "")),
                "expected": ", ".join(str(value) for value in record.get("expected", [])),
                "recipe": _compact(run.own_recipe(record)),
            }
            for record in failed[:_FAILURES_SHOWN]
        ],
        "left": max(0, len(failed) - _FAILURES_SHOWN),
    }


def _environment(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    sessions = run.get("sessions") or [{}]
    last = sessions[-1]
    versions = ", ".join(f"{name} {told}" for name, told in last.get("versions", {}).items())
    hardware = last.get("hardware", {})
    machine = ", ".join(str(hardware[name]) for name in ("cpu", "system") if name in hardware)
    model, text = run["model"], run.get("haystack") or run["text"]
    return [
        ("model", " ".join(str(model[name]) for name in ("name", "type") if name in model)),
        ("fingerprint", str(model.get("fingerprint", "unknown"))),
        ("text", str(text["id"])),
        ("text sha256", str(text.get("sha256", "unknown"))),
        ("created", str(run.get("created", "unknown"))),
        ("versions", versions or "unknown"),
        ("machine", machine or "unknown"),
    ]


def _pretty(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, default=dict)


def _compact(recipe: dict[str, Any]) -> str:
    return json.dumps(recipe, ensure_ascii=False, sort_keys=True) if recipe else ""


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
