"""Own and shared texts: which cells share a window and a needle, and what folders say of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from needle_fakes import Scripted, make_sweep, reads_everything

from longctx.errors import UserError
from longctx.eval.needle.config import NeedleConfig
from longctx.eval.needle.grid import Cell, cells, text_number
from longctx.eval.runfolder.folder import RunFolder
from longctx.eval.texts.haystack import Haystack
from longctx.options.needle import NeedleOptions
from longctx.runs.needle_prepare import PreparedNeedle, prepare
from longctx.runs.settle import settle_needle


def test_every_cell_has_a_number_of_its_own() -> None:
    config = NeedleConfig(lengths=(512,), depths=(0.0, 12.5, 100.0), repeats=30)
    numbers = [text_number(config, cell) for cell in cells(config, ["none"])]
    assert len(set(numbers)) == 90
    assert numbers[:3] == [1_000_000, 1_012_500, 1_100_000]
    shared = NeedleConfig(lengths=(512,), depths=(0.0, 12.5, 100.0), repeats=30, texts="shared")
    found = {text_number(shared, cell) for cell in cells(shared, ["none"])}
    assert found == set(range(30))
    assert not found & set(numbers)
    # Methods are compared on the same texts; a grid that grows keeps those that it has.
    assert text_number(config, Cell("dca", 512, 12.5, 0)) == 1_012_500
    # Where evidence lies all over the text a repeat is a text in any case: keys stay.
    assert text_number(config, Cell("none", 512, None, 3)) == 3


@pytest.mark.parametrize(("texts", "count"), [("own", 6), ("shared", 2)])
def test_windows_and_needles(texts: Any, count: int, chatml: Any, book: Haystack) -> None:
    sweep = make_sweep(chatml, book, lengths=(512,), texts=texts)
    prompts = [sweep.builder.build(sweep.recipe(cell)) for cell in sweep.all_cells()]
    assert len({prompt.haystack_offset for prompt in prompts}) == count
    assert len({prompt.sample.expected for prompt in prompts}) == count


@pytest.mark.parametrize("texts", ["own", "shared"])
def test_a_simulated_model_is_told_the_text(texts: Any, chatml: Any, book: Haystack) -> None:
    sweep = make_sweep(chatml, book, lengths=(512,), repeats=1, texts=texts)
    asked: list[str] = []

    class Listens(Scripted):
        def generate(self, request: Any) -> Any:
            asked.append(request.truth.text)
            return super().generate(request)

    for cell in sweep.all_cells():
        sweep.run_cell(cell, Listens(reads_everything))
    assert len(set(asked)) == (3 if texts == "own" else 1)
    assert asked[0] == ("0/512/1000000" if texts == "own" else "0/512/0")


@pytest.fixture
def text(tmp_path: Path, book: Haystack) -> str:
    file = tmp_path / "book.txt"
    file.write_text(book.text[:20_000], encoding="utf-8")
    return str(file)


def sweep_of(text: str, folder: Path | None = None, *, shared: bool = False) -> PreparedNeedle:
    said = NeedleOptions("sim:perfect", lengths=(256,), haystack=text, output=folder)
    return prepare(settle_needle(replace(said, shared_texts=shared)))


def settings(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())["settings"]
    return found


def begin(prepared: PreparedNeedle) -> None:
    with RunFolder(prepared.output) as folder:
        folder.begin(prepared.describe())


def test_a_folder_goes_on_with_the_texts_that_it_was_begun_with(tmp_path: Path, text: str) -> None:
    own, shared = tmp_path / "own", tmp_path / "shared"
    begin(sweep_of(text, own))
    begin(sweep_of(text, shared, shared=True))
    assert (settings(own)["texts"], settings(shared)["texts"]) == ("own", "shared")
    # As a version without own texts had begun it.
    run = json.loads((shared / "run.json").read_text())
    del run["settings"]["texts"]
    (shared / "run.json").write_text(json.dumps(run))
    for said in (False, True):
        again = sweep_of(text, shared, shared=said)
        assert again.options.config.texts == "shared"
        begin(again)
    assert sweep_of(text, own).options.config.texts == "own"
    with pytest.raises(UserError, match="has texts 'own', this one 'shared': name another folder"):
        begin(sweep_of(text, own, shared=True))


def test_own_and_shared_texts_have_folders_of_their_own(text: str) -> None:
    assert sweep_of(text).output != sweep_of(text, shared=True).output


def test_a_task_without_depths_has_its_texts_and_keys_as_ever(text: str) -> None:
    said = NeedleOptions("sim:perfect", tasks=("vt",), lengths=(512,), haystack=text)
    prepared = prepare(settle_needle(said))
    assert "texts" not in prepared.settings
    assert [prepared.sweep.recipe(cell).repeat for cell in prepared.sweep.all_cells()] == [0, 1]
