"""`longctx report`: what the page says, that it stays text, and that equal input is equal bytes."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from report_helpers import Elements, invoke, page_of
from run_fakes import (
    METHODS,
    all_states,
    four_methods,
    same_model,
    window,
    write_perplexity,
    write_run,
)

from longctx.errors import UserError
from longctx.eval.needle.ranking import arms_of, ranked
from longctx.plots.palette import palette
from longctx.report.collect import collect

HOSTILE = "</script><img src=x onerror=alert(1)>'\"&{{ 7*7 }}<!--\u2028"


def samples_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="samples">(.*?)</script>', page, re.S)
    assert found is not None
    return dict(json.loads(found[1]))


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    first = write_run(tmp_path / "small", prompts="a")
    second = write_run(
        tmp_path / "large", window(1024), methods=["none"], model="m/large", prompts="a"
    )
    return [first, second]


def test_the_page_has_all_its_parts(runs: list[Path]) -> None:
    page = page_of(*runs)
    elements = Elements(page)
    sections = [attributes["id"] for attributes in elements.having("section")]
    assert sections == ["summary", "maps", "differences", "failures", "reproduce"]
    links = [str(attributes["href"]) for attributes in elements.having("a")]
    assert {link.removeprefix("#") for link in links} == set(sections)
    maps = [a for a in elements.having("svg", role="group") if "data-columns" in a]
    kinds = [str(one["aria-label"])[:14] for one in maps]
    assert kinds == ["Needle map of "] * 5 + ["Difference map"] * 4  # three within, one across
    cells = elements.having("g", role="button")
    assert len(cells) == 9 * 66
    # One stop of the Tab key per map; arrow keys go on from there.
    assert sum(cell["tabindex"] == "0" for cell in cells) == 9
    assert "2 of 2 found" in str(cells[0]["aria-label"])
    places = [str(cell["data-place"]).split() for cell in cells]
    assert {len(place) for place in places[: 5 * 66]} == {1}
    assert {len(place) for place in places[5 * 66 :]} == {2}  # a difference tells of both arms
    assert places[5 * 66 + 1] == ["0/512/0", "1/512/0"]
    assert cells[5 * 66 + 1]["aria-label"] == "512 at 0%: no difference of 2"
    samples = samples_of(page)
    assert all(place in samples["cells"] for both in places for place in both)
    assert samples["labels"][1] == "small · yarn"
    assert page.count("<caption>") == 1 + 5 + 2  # summary, maps, comparisons within and across
    assert f"longctx report {runs[0]} {runs[1]}" in page
    assert "2026-11-25" in page


def test_the_summary_is_sorted_by_effective_length(runs: list[Path]) -> None:
    page = page_of(*runs)
    rows = re.findall(r'<th scope="row" class="name">(.*?)<td[^>]*>(.*?)<td', page)
    assert rows == [
        ("small · dca", "≥ 8K (max tested)"),
        ("small · yarn+dca", "≥ 8K (max tested)"),
        ("small · yarn", "4K"),
        ("large · none", "512"),
        ("small · none", "512"),
    ]
    assert [(arm.run, arm.method) for arm in ranked(arms_of([]))] == []
    assert "small · dca and small · yarn+dca hold furthest: ≥ 8K (max tested)." in page


def test_equal_methods_without_samples_enough_are_ahead_together(tmp_path: Path) -> None:
    run = write_run(tmp_path / "few", depths=(0, 100), repeats=1, lengths=(256, 8192))
    page = page_of(run)
    assert "dca and yarn+dca are ahead with 4 of 4 needles found each; for an effective" in page
    alone = write_run(tmp_path / "one", methods=("dca",), depths=(0,), repeats=1, lengths=(256,))
    assert "dca is ahead with 1 of 1 needles found; for an effective" in page_of(alone)


def test_colours_are_those_of_the_pictures(runs: list[Path]) -> None:
    page = page_of(runs[0])
    assert page.count(f'<rect fill="{palette().colour(1).hex}"') > 100
    classic = page_of(runs[0], options=("--palette", "classic"))
    assert f'<rect fill="{palette("classic").colour(1).hex}"' in classic


def test_nothing_is_asked_of_anybody(runs: list[Path]) -> None:
    page = page_of(*runs)
    elements = Elements(page)
    policy = elements.having("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy is not None and policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag, attributes in elements.found:
        assert not {"src", "srcset", "style", "action"} & set(attributes), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert str(attributes.get("href", "#")).startswith("#")
    assert not re.search(r"https?:|@import|url\((?!#)", page)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "run",
        methods=["none"],
        model=f"m\\{HOSTILE}",
        text=HOSTILE,
        answer=HOSTILE,
        prompts="a",
    )
    predicted = write_perplexity(tmp_path / "ppl", model=f"m\\{HOSTILE}", text=HOSTILE)
    page = page_of(folder, predicted, options=("--title", HOSTILE))
    elements = Elements(page)
    assert elements.having("img") == []
    assert len(elements.having("script")) == 2
    assert "<img" not in page
    assert html.escape("<img src=x", quote=False) in page
    assert "{{ 7*7 }}" in page  # no template of ours
    answers = {sample[2] for cell in samples_of(page)["cells"].values() for sample in cell}
    assert answers == {HOSTILE}


def test_equal_input_gives_equal_bytes(
    tmp_path: Path, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1764000000")
    same_model(runs[0])
    runs = [*runs, write_perplexity(tmp_path / "ppl")]
    for form in ("html", "svg", "csv"):
        outputs = [tmp_path / name / f"report.{form}" for name in ("one", "two")]
        for output in outputs:
            output.parent.mkdir(exist_ok=True)
            monkeypatch.chdir(output.parent)
            result = invoke(*runs, "--output", output.name)
            assert result.exit_code == 0, result.output
        assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert "2025-11-24" in (tmp_path / "one/report.html").read_text()


def test_four_full_panels_stay_under_two_megabytes(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "run",
        lambda *_: "miss",
        repeats=5,
        answer="A rambling answer. " * 100,
        prompts="a",
    )
    page = page_of(folder)
    assert len(samples_of(page)["cells"]) == 4 * 66
    assert len(page.encode()) < 2_000_000
    assert "(1900 characters)" in page
    assert "and 920 more in run/results.jsonl" in page


def test_every_state_is_drawn_and_told(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", all_states, methods=["none"], repeats=1))
    assert len(re.findall(r'<rect class="hatched"', page)) == 3
    assert len(re.findall(r'<path class="cross" d', page)) == 1 + 1  # one cell, and the legend
    for depth, words in (
        (30, "0.5 of 1 found, 1 cut off"),
        (40, "1 longer than the target takes"),
        (50, "1 error"),
        (60, "1 not run"),
    ):
        assert f"8K at {depth}%: {words}" in page
    assert "8K at 20%: 0.5 of 1 found" in page
    assert "1 error, 2 miss, 1 overflow, 2 partial, 2 truncated output" in page
    assert "broken" in page  # what the error said


def test_failures_tell_what_rebuilds_the_prompt(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", window(4096), methods=["none"], prompts="a")
    page = html.unescape(page_of(folder))
    lines = (folder / "results.jsonl").read_text().splitlines()
    rows = re.findall(r"<td><code>(\{.*?\})</code><td class=\"number\">(\d+)", page)
    assert len(rows) == 2 * (1 + 6)  # the very start at 4K, depths to 50 % at 8K
    run = collect([folder]).runs[0]
    for recipe, line in rows:
        record = json.loads(lines[int(line) - 1])
        assert {**run.shared_recipe, **json.loads(recipe)} == record["recipe"]
        assert record["status"] == "miss"
    assert run.shared_recipe["haystack_sha256"] == "3a545b04018a"


def test_a_cell_that_was_run_again_is_told_by_its_last_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", lambda *_: "miss", methods=["none"], lengths=(512,))
    lines = (folder / "results.jsonl").read_text().splitlines()
    with (folder / "results.jsonl").open("a") as stream:
        stream.write(lines[0] + "\n")
    run = collect([folder]).runs[0]
    assert run.results.lines[json.loads(lines[0])["key"]] == len(lines) + 1
    assert len(run.failures) == len(lines)


def test_runs_are_paired_where_their_prompts_are_equal(tmp_path: Path, runs: list[Path]) -> None:
    report = collect(runs)
    (versus,) = report.across
    assert (versus.base.model, versus.arm.model) == ("small", "large")
    # At 1K a window of 512 loses depths 0 to 40 %, one of 1024 the first of them; two samples each.
    assert versus.difference.lengths[1024].second_only == 8
    other = write_run(tmp_path / "other", model="m/other", prompts="b")
    assert collect([runs[0], other]).across == []
    assert "The runs asked different prompts" in page_of(runs[0], other)
    unknown = [write_run(tmp_path / name, methods=["none"]) for name in ("x", "y")]
    assert collect(unknown).across == []


def test_twins_are_told_apart(tmp_path: Path) -> None:
    twins = [write_run(tmp_path / name, methods=["none"]) for name in ("x", "y")]
    report = collect(twins)
    assert [report.label(arm) for arm in report.arms] == ["small · none (1)", "small · none (2)"]


def test_a_map_that_says_nothing_is_marked(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", lambda *_: "miss", methods=["none"]))
    assert "Not discriminative: the model fails at the shortest length already (0%)." in page


def test_csv_has_the_figures(runs: list[Path], tmp_path: Path) -> None:
    assert invoke(*runs, "--format", "csv", "--output", tmp_path / "r.csv").exit_code == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert len(rows) == 5 * 6 * (1 + 11)
    pooled = {(r["run"], r["method"], r["length"]): r for r in rows if not r["depth"]}
    none, dca = pooled["small", "none", "1024"], pooled["small", "dca", "1024"]
    assert (none["k"], none["n"], none["difference"]) == ("12", "22", "")
    assert float(dca["difference"]) == pytest.approx(10 / 22, abs=1e-6)
    assert dca["pairs"] == "22" and float(dca["p_holm"]) < 0.05
    assert dca["effective_length"] == "8192"
    cell = next(r for r in rows if r["depth"] == "0" and r["length"] == "1024")
    assert (cell["n"], cell["score"]) == ("2", "0.0")


@pytest.mark.parametrize("picture", ["map", "effective"])
def test_pictures(tmp_path: Path, runs: list[Path], picture: str) -> None:
    output = tmp_path / "r.png"
    result = invoke(*runs, "--output", output, "--picture", picture, "--title", "Mine")
    assert result.exit_code == 0, result.output
    assert imread(output).shape[1] >= 1200
    assert invoke(*runs, "--output", tmp_path / "r.svg", "--picture", picture).exit_code == 0
    assert (tmp_path / "r.svg").read_text().startswith("<?xml")


def test_a_plain_figure_is_smaller_and_the_full_one_the_default(
    tmp_path: Path, runs: list[Path]
) -> None:
    shapes = {}
    for style in ("plain", "full", None):
        output = tmp_path / f"{style}.png"
        chosen = [] if style is None else ["--style", style]
        assert invoke(runs[0], "--output", output, *chosen).exit_code == 0
        shapes[style] = output.read_bytes()
    assert shapes["full"] == shapes[None]
    tall, flat = (imread(tmp_path / f"{style}.png").shape for style in ("full", "plain"))
    assert flat[0] < tall[0] / 2 and flat[1] == tall[1] >= 1200


def test_a_picture_says_which_letters_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longctx.plots import fonts

    monkeypatch.setattr(fonts, "fallback", lambda: None)
    folder = write_run(tmp_path / "run", methods=["none"], model="通义")
    result = invoke(folder, "--format", "png")
    assert result.exit_code == 0
    assert "no font for 通义: shown as ▯" in result.stderr
    assert (folder / "report.png").exists()
    assert "通义" in page_of(folder)


def test_where_it_writes(tmp_path: Path, runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"wrote {runs[0] / 'report.html'}" in invoke(runs[0]).stdout.replace("\n", "")
    assert invoke(*runs).exit_code == 0
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "pdf"], "--format pdf: not known: use html, png, svg, csv, md or tex"),
        (["--picture", "pie"], "--picture pie: not known: use map, effective or perplexity"),
        (["--picture", "effective"], "--picture effective: html has no picture to choose: use"),
        (["--style", "plain"], "--style plain: a style of the map as a picture: use --format png"),
        (["--style", "bare"], "--style bare: not known: use full, plain or qwen2"),
        (["--palette", "jet"], "--palette jet: not known"),
        (["--annotate", "some"], "--annotate some: not known"),
        (["--date", "tomorrow"], "--date tomorrow: not a date: write 2026-11-25"),
        (["--output", "a.pdf"], "--output a.pdf: .pdf is no format"),
        (["--output", "a.png", "--format", "svg"], r"--format svg: --output a.png ends in .png"),
        (["--output", "no/such/folder/a.html"], "cannot be written"),
        (["--output", "no/such/folder/a.png"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line(runs: list[Path], options: list[str], message: str) -> None:
    result = invoke(runs[0], *options)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_bad_folders_and_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such folder" in str(invoke(tmp_path / "nowhere").exception)
    assert f"{tmp_path}: no run.json in it: name the folder of a run" in str(
        invoke(tmp_path).exception
    )
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "run.json").write_text(json.dumps({"schema": 1, "task": "speed"}))
    told = str(invoke(strange).exception)
    assert told == f"{strange}: it holds a speed run: name runs of needle or perplexity"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    folder = write_run(tmp_path / "run", methods=["none"])
    assert "SOURCE_DATE_EPOCH=soon: not a number" in str(invoke(folder).exception)


def test_a_run_in_progress_can_be_looked_at(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", prompts="a")
    text = (folder / "results.jsonl").read_text()
    (folder / "results.jsonl").write_text(text[: len(text) // 3])
    page = page_of(folder)
    assert "not run" in page
    (folder / "results.jsonl").unlink()
    assert "no score yet" in page_of(folder)


def test_chinese_stays_chinese(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "run",
        four_methods,
        methods=METHODS[:2],
        text="红楼梦.txt",
        answer="不知道。",
        prompts="a",
    )
    page = page_of(folder)
    assert "红楼梦.txt" in page and "不知道。" in page
