"""What a report is made from: run folders, read once, as arms, differences and failures.

Knows records and figures; not how they are shown. Never loads a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from longctx.errors import UserError
from longctx.eval.needle import summary
from longctx.eval.needle.paired import compare, net_by_cell, pairs_of
from longctx.eval.needle.ranking import MethodOfRun, arms_of, ranked
from longctx.eval.needle.results import NeedleResults
from longctx.eval.needle.ruler_table import RulerArm
from longctx.eval.perplexity import summary as perplexity_summary
from longctx.eval.runfolder import folder
from longctx.eval.runfolder.records import Record
from longctx.plots.difference import DifferenceMap
from longctx.report.perplexity import ReportedPerplexityRun, strips_for
from longctx.report.published import PublishedRow
from longctx.report.tasks import task_arms


@dataclass(frozen=True)
class ReportedNeedleRun:
    path: Path
    results: NeedleResults

    @property
    def model(self) -> str:
        return arms_of([self.results])[0].model

    @cached_property
    def shared_recipe(self) -> dict[str, Any]:
        """What the recipes of all prompts have in common."""
        recipes = [record.get("recipe") or {} for record in self.results.records]
        if not recipes:
            return {}
        first = recipes[0]
        return {
            name: value
            for name, value in first.items()
            if all(name in recipe and recipe[name] == value for recipe in recipes)
        }

    def own_recipe(self, record: Record) -> dict[str, Any]:
        """What the recipe of this prompt adds to `shared_recipe`: both together rebuild it."""
        recipe = record.get("recipe") or {}
        return {name: value for name, value in recipe.items() if name not in self.shared_recipe}

    @property
    def failures(self) -> list[Record]:
        """Every sample that was not found, in the order of the grid."""
        order = {method: index for index, method in enumerate(self.results.methods)}
        failed = [record for record in self.results.records if record["status"] != "ok"]
        return sorted(
            failed,
            key=lambda record: (
                order.get(record["scheme"]["method"], len(order)),
                record["length"],
                record["depth"],
                record["repeat"],
            ),
        )

    @property
    def commands(self) -> list[str]:
        sessions = self.results.run.get("sessions", [])
        told = [str(session["command"]) for session in sessions if session.get("command")]
        return list(dict.fromkeys(told))

    @property
    def warnings(self) -> list[str]:
        reasons = summary.control_figures(self.results)["reasons"]
        return [f"Not discriminative: the model {reason}." for reason in reasons]


@dataclass(frozen=True)
class Versus:
    """One arm against another on the prompts that both were asked."""

    base: MethodOfRun
    arm: MethodOfRun
    difference: DifferenceMap


@dataclass(frozen=True)
class Report:
    """Needle runs and perplexity runs, in the order in which they were named.

    `published` are figures of others, to stand below ours.
    """

    runs: Sequence[ReportedNeedleRun]
    perplexity: Sequence[ReportedPerplexityRun] = ()
    published: Sequence[PublishedRow] = ()

    @cached_property
    def arms(self) -> list[MethodOfRun]:
        return arms_of([run.results for run in self.runs])

    @cached_property
    def ranked(self) -> list[MethodOfRun]:
        return ranked(self.arms)

    @cached_property
    def tasks(self) -> list[RulerArm]:
        """Models by task; none where each run is a needle's of its own."""
        return task_arms([run.results for run in self.runs])

    @property
    def lengths(self) -> list[int]:
        return sorted({length for run in self.runs for length in run.results.lengths})

    @property
    def several_models(self) -> bool:
        return len(self.runs) > 1

    def label(self, arm: MethodOfRun) -> str:
        label = arm.label(with_model=self.several_models)
        twins = [other for other in self.arms if other.label(with_model=True) == label]
        return f"{label} ({arm.run + 1})" if len(twins) > 1 else label

    @cached_property
    def strips(self) -> list[dict[str, dict[int, float]]]:
        """Per needle run the perplexity of its model, by method and length; empty: not measured."""
        return [strips_for(run.results, self.perplexity) for run in self.runs]

    @cached_property
    def within(self) -> list[Versus]:
        """Every method against the first of its run."""
        firsts = {arm.run: arm for arm in reversed(self.arms)}
        pairs = [(firsts[arm.run], arm) for arm in self.arms if arm is not firsts[arm.run]]
        return [_versus(base, arm) for base, arm in pairs]

    @cached_property
    def across(self) -> list[Versus]:
        """Every arm of a later run against the same method of the first run, else its first arm.

        Empty where the prompts differ: another tokenizer makes other prompts of the same length.
        """
        ours = [arm for arm in self.arms if arm.run == 0]
        named = {arm.method: arm for arm in ours}
        found = [_versus(named.get(arm.method, ours[0]), arm) for arm in self.arms if arm.run != 0]
        return [versus for versus in found if versus.difference.cells]


def collect(paths: Sequence[Path], published: Sequence[PublishedRow] = ()) -> Report:
    """Read every folder, of whichever task it is.

    Raises:
        UserError: a folder is missing, or holds no run of a task that is known.
    """
    found = [_read(path) for path in paths]
    return Report(
        [run for run in found if isinstance(run, ReportedNeedleRun)],
        [run for run in found if isinstance(run, ReportedPerplexityRun)],
        published,
    )


def _read(path: Path) -> ReportedNeedleRun | ReportedPerplexityRun:
    if not path.is_dir():
        raise UserError(f"{path}: no such folder: name the folder of a run")
    about = folder.read_run(path)
    if about is None:
        raise UserError(f"{path}: no {folder.RUN} in it: name the folder of a run")
    task = about.get("task")
    if task == "perplexity":
        return ReportedPerplexityRun(path, perplexity_summary.load(path))
    if task != "needle":
        raise UserError(f"{path}: it holds a {task} run: name runs of needle or perplexity")
    return ReportedNeedleRun(path, summary.load(path))


def _versus(base: MethodOfRun, arm: MethodOfRun) -> Versus:
    first, second = base.results.chosen(base.method), arm.results.chosen(arm.method)
    if base.run != arm.run:
        # Between runs only the hash tells that two prompts are one and the same.
        first = [record for record in first if record.get("prompt_sha256")]
    pairs = pairs_of(first, second)
    compared = compare(pairs, base.results.looks.joined(arm.results.looks))
    return Versus(base, arm, DifferenceMap(arm.method, net_by_cell(pairs), compared))
