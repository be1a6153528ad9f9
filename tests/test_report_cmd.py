"""`longctx report`: what the page says, that it stays text, and that equal input is equal bytes."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from run_fakes import (
    METHODS,
    all_states,
    four_methods,
    same_model,
    window,
    write_perplexity,
    write_run,
)
from typer.testing import CliRunner

from longctx import cli
from longctx.errors import UserError
from longctx.eval.ranking import arms_of, ranked
from longctx.plots.palette import palette
from longctx.report.collect import collect
from longctx.report.perplexity import strips_for

HOSTILE = "</script><img src=x onerror=alert(1)>'\"&{{ 7*7 }}<!--\u2028"


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, ["report", *map(str, arguments)], prog_name="longctx")


def page_of(*folders: Path, options: tuple[str, ...] = ()) -> str:
    output = folders[0].parent / "page.html"
    result = invoke(*folders, "--output", output, "--date", "2026-11-25", *options)
    assert result.exit_code == 0, result.output
    return output.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every tag with its attributes, and the text of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, list[str]] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.data.setdefault(self.found[-1][0] if self.found else "", []).append(data)

    def having(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.found
            if name == tag and all(attributes.get(key) == value for key, value in wanted.items())
        ]


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
        (30, "1 answer cut off"),
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
    assert run.lines[json.loads(lines[0])["key"]] == len(lines) + 1
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


# Tokens 2 to 1,024: 511 at ln 2, 512 at ln 8.
BROKEN = math.exp((511 * math.log(2) + 512 * math.log(8)) / 1023)


def test_perplexity_stands_beside_the_maps(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", methods=["none"])
    assert 'id="perplexity"' not in page_of(folder)
    page = page_of(folder, write_perplexity(tmp_path / "ppl"))
    assert 'id="perplexity"' in page and 'id="maps"' in page
    assert "2.00 (2.00-2.00)" in page and f"{BROKEN:.2f} (" in page
    difference = -512 * math.log(4) / 1023
    assert f"{difference:+.3f}* " in page
    (curve,) = Elements(page).having("svg", **{"class": "curve"})
    assert f"none 2.00, {BROKEN:.2f}; dca 2.00, 2.00" in str(curve["aria-label"])
    assert "longctx perplexity" in page


def test_a_page_of_perplexity_alone(tmp_path: Path) -> None:
    page = page_of(write_perplexity(tmp_path / "ppl"))
    assert 'id="perplexity"' in page and "<h1>Perplexity: small</h1>" in page
    for absent in ("summary", "maps", "failures"):
        assert f'id="{absent}"' not in page and f'href="#{absent}"' not in page
    with pytest.raises(UserError, match="no needle run is named: name one, or use --picture"):
        picture_of(tmp_path, "map", tmp_path / "ppl")


def picture_of(tmp_path: Path, picture: str, *folders: Path) -> Any:
    from longctx.report_cmd import ReportOptions, make

    output = tmp_path / f"{picture}.png"
    make(ReportOptions(folders, output=output, picture=picture))
    return imread(output)


def test_a_strip_lies_under_the_map_of_the_same_model_alone(tmp_path: Path) -> None:
    folder = same_model(write_run(tmp_path / "run", methods=["none", "dca"]))
    plain = picture_of(tmp_path, "map", folder)
    other = write_perplexity(tmp_path / "other", fingerprint="g")
    assert (picture_of(tmp_path, "map", folder, other) == plain).all()
    higher = picture_of(tmp_path, "map", folder, write_perplexity(tmp_path / "ppl"))
    assert higher.shape[0] > plain.shape[0] and higher.shape[1] == plain.shape[1]
    runs = collect([folder, tmp_path / "ppl"])
    strips = strips_for(runs.runs[0].results, runs.perplexity)
    assert strips["none"] == pytest.approx({512: 2.0, 1024: BROKEN})
    assert strips["dca"] == pytest.approx({512: 2.0, 1024: 2.0})
    page = page_of(folder, tmp_path / "ppl", other)
    assert page.count('<g class="lower">') == 2
    assert f"Perplexity: 512 2.00, 1K {BROKEN:.2f}." in page
    assert f">1K: perplexity {BROKEN:.2f}</title>" in page
    assert '<g class="lower">' not in page_of(folder, other)
    nameless = write_run(tmp_path / "nameless", methods=["none"])
    assert strips_for(collect([nameless]).runs[0].results, runs.perplexity) == {}


def test_another_scheme_is_another_measurement(tmp_path: Path) -> None:
    """Same model and method, other chunks: no strip; the other method keeps its own."""
    folder = same_model(write_run(tmp_path / "run", methods=["none", "dca"]))
    predicted = write_perplexity(tmp_path / "ppl")
    run = json.loads((predicted / "run.json").read_text())
    run["schemes"]["dca"]["chunk_size"] = 256
    (predicted / "run.json").write_text(json.dumps(run))
    assert list(collect([folder, predicted]).strips[0]) == ["none"]
    run["settings"]["dtype"] = "bfloat16"
    (predicted / "run.json").write_text(json.dumps(run))
    assert collect([folder, predicted]).strips == [{}]


def test_perplexity_that_a_picture_cannot_show_is_said(tmp_path: Path) -> None:
    folder = same_model(write_run(tmp_path / "run", methods=["none"]))
    other = write_perplexity(tmp_path / "other", fingerprint="g")
    result = invoke(folder, other, "--output", tmp_path / "a.svg")
    assert result.exit_code == 0
    assert "no perplexity is shown: it was measured for another model" in result.stderr
    same = invoke(folder, write_perplexity(tmp_path / "ppl"), "--output", tmp_path / "b.svg")
    assert same.stderr == ""
    with pytest.raises(UserError, match="--picture effective: it shows no perplexity"):
        picture_of(tmp_path, "effective", folder, other)


def test_the_curve_is_a_picture_of_one_run(tmp_path: Path) -> None:
    first = write_perplexity(tmp_path / "a")
    assert picture_of(tmp_path, "perplexity", first).shape[0] > 500
    with pytest.raises(UserError, match="--picture perplexity: 2 perplexity runs are named"):
        picture_of(tmp_path, "perplexity", first, write_perplexity(tmp_path / "b"))


def test_numbers_of_both_kinds_and_no_formula(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", methods=["none"], model="models/=cmd()")
    predicted = write_perplexity(tmp_path / "ppl", model="@sum")
    output = tmp_path / "out.csv"
    assert invoke(folder, predicted, "--output", output).exit_code == 0
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    found = [row for row in rows if row["perplexity"]]
    assert [row["model"] for row in found] == ["'@sum"] * 4
    assert float(found[1]["perplexity"]) == pytest.approx(BROKEN, abs=1e-6)
    assert len({len(line) for line in csv.reader(output.read_text().splitlines())}) == 1
    assert {row["model"] for row in rows if not row["perplexity"]} == {"'=cmd()"}


def test_a_negative_number_stays_a_number(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "run", lambda method, *_: "miss" if method == "dca" else "ok", prompts="a"
    )
    output = tmp_path / "out.csv"
    assert invoke(folder, "--output", output).exit_code == 0
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    differences = {row["difference"] for row in rows if row["method"] == "dca" and row["pairs"]}
    assert differences == {"-1.0"}


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


def test_a_picture_says_which_letters_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longctx.plots import words

    monkeypatch.setattr(words, "fallback", lambda: None)
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
        (["--format", "pdf"], "--format pdf: not known: use html, png, svg or csv"),
        (["--picture", "pie"], "--picture pie: not known: use map, effective or perplexity"),
        (["--picture", "effective"], "--picture effective: html has no picture to choose: use"),
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
