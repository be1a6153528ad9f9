"""How often a needle run claims what is not so, and how often it sees what is: by simulation.

    python benchmarks/certainty.py                    # the rules, on drawn answers: minutes
    python benchmarks/certainty.py --harness 100      # the default through prompts and run folders

Models find a share P of the needles; answers to one text correlate by RHO, as those of
`sim:clustered=P,RHO`. False stars: difference maps of two arms of 0.80 that have any. False
passes: lengths at which an arm of 0.80 gets an effective length. Coverage: intervals that hold the
true score. Power: an effective length for 0.98, and any star for 0.95 against 0.70. `before` are
design and rules up to November 2026. A map has six lengths, eleven depths. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]  # run from an uninstalled clone

WEAK, STRONG, WORSE, BETTER = 0.8, 0.98, 0.7, 0.95
STAR_SHARE = 4  # maps are a quarter as many as lengths: they cost more


def table(runs: int) -> Iterator[str]:
    import clustered_sim as sim

    heads = " | ".join(f"RHO {rho:g}" for rho in sim.CORRELATIONS)
    maps = runs // STAR_SHARE
    figures: dict[str, Callable[[Any, float], float]] = {
        "False stars": lambda rules, rho: sim.starring(rules, WEAK, WEAK, rho, maps),
        "False passes": lambda rules, rho: sim.passing(rules, WEAK, rho, runs),
        "Coverage at 0.80": lambda rules, rho: sim.coverage(rules, WEAK, rho, runs),
        "Coverage at 0.95": lambda rules, rho: sim.coverage(rules, BETTER, rho, runs),
        "An effective length of 0.98": lambda rules, rho: sim.passing(rules, STRONG, rho, runs),
        "A star for 0.95 against 0.70": lambda rules, rho: sim.starring(
            rules, BETTER, WORSE, rho, maps
        ),
    }
    yield f"{runs} lengths and {maps} maps a figure, in percent.\n"
    for title, figure in figures.items():
        yield f"| {title} | {heads} |"
        yield "|---|" + "---:|" * len(sim.CORRELATIONS)
        for design in (sim.BEFORE, *sim.DESIGNS):
            rules = sim.rules_of(design)
            shown = " | ".join(f"{100 * figure(rules, rho):.1f}" for rho in sim.CORRELATIONS)
            yield f"| {design.words} | {shown} |"
        yield ""


class Runs:
    """Whole runs: prompts, a simulated session, records, summary; all but the pictures."""

    def __init__(self, folder: Path) -> None:
        from longctx.eval.texts import prose

        self.folder = folder
        self.text = folder / "text.txt"
        self.text.write_text(prose.haystack(1024).text[:60_000], encoding="utf-8")

    def run(self, model: str, seed: int, **options: Any) -> Any:
        from longctx.eval.needle import summary
        from longctx.eval.runfolder.folder import RunFolder
        from longctx.options.needle import NeedleOptions
        from longctx.runs.needle_prepare import prepare
        from longctx.runs.settle import settle_needle

        output = self.folder / f"{model}-{seed}"
        said = NeedleOptions(
            **{"model": model, "seed": seed, "output": output, "haystack": str(self.text)},
            **options,
        )
        prepared = prepare(settle_needle(said))
        with RunFolder(output) as folder:
            folder.begin(prepared.describe())
            tried: set[str] = set()
            sessions = prepared.model.sessions({})
            while cells := prepared.next_cells(folder.results.records, tried):
                prepared.sweep.run(cells, sessions, folder.results, _Quiet())
                tried |= {prepared.sweep.key(cell) for cell in cells}
        summary.write(output)
        return summary.load(output)


class _Quiet:
    def started(self, cell: Any) -> None: ...

    def finished(self, cell: Any, record: Any) -> None: ...


def harness(seeds: int, adaptive: bool) -> Iterator[str]:
    """The default design from `sim:clustered=P,RHO` to stars and effective lengths."""
    import clustered_sim as sim

    lengths = (256, 320)
    options: dict[str, Any] = {"lengths": lengths, "adaptive": adaptive}
    yield f"{seeds} seeds, lengths {lengths}, {'--adaptive' if adaptive else 'the default'}.\n"
    heads = ("RHO", "false stars", "false passes", "coverage", "effective length", "star")
    yield f"| {' | '.join(heads)} |"
    yield "|---|---:|---:|---:|---:|---:|"
    for rho in sim.CORRELATIONS:
        counts = [0] * 5
        with tempfile.TemporaryDirectory() as folder:
            runs = Runs(Path(folder))
            for seed in range(seeds):
                models = [f"{WEAK},{rho:g},1", f"{WEAK},{rho:g},2", f"{STRONG},{rho:g}"]
                models += [f"{BETTER},{rho:g}", f"{WORSE},{rho:g}"]
                found = [runs.run(f"sim:clustered={one}", seed, **options) for one in models]
                held = [_starred(pair) for pair in (found[:2], found[3:])]
                weak = found[0]
                within = [
                    weak.interval("sim", length).low <= WEAK <= weak.interval("sim", length).high
                    for length in lengths
                ]
                passed = [one.effective("sim").length is not None for one in (weak, found[2])]
                told = [held[0], passed[0], sum(within) / len(lengths), passed[1], held[1]]
                counts = [count + one for count, one in zip(counts, told, strict=True)]
        yield f"| {rho:g} | " + " | ".join(f"{100 * one / seeds:.1f}" for one in counts) + " |"


def _starred(pair: Any) -> bool:
    from longctx.report.collect import Report, ReportedNeedleRun

    (versus,) = Report([ReportedNeedleRun(Path(), results) for results in pair]).across
    return bool(versus.difference.holds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000, help="lengths for each figure")
    parser.add_argument("--harness", type=int, metavar="SEEDS", help="whole runs instead")
    parser.add_argument("--adaptive", action="store_true", help="of --harness")
    options = parser.parse_args()
    lines = (
        table(options.runs)
        if options.harness is None
        else harness(options.harness, options.adaptive)
    )
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
