"""`longctx report` of perplexity runs: beside the maps, under them, and alone."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from report_helpers import Elements, invoke, page_of
from run_fakes import (
    same_model,
    write_perplexity,
    write_run,
)

from longctx.errors import UserError
from longctx.report.collect import collect
from longctx.report.perplexity import strips_for

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
    from longctx.report.make import ReportOptions, make

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
