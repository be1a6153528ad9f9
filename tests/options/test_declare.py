"""One declaration of an option, read by the command line, by files, and by Python."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from longctx import cli
from longctx.commands.command import command
from longctx.errors import UserError
from longctx.options.declare import Argument, Option, from_mapping, from_words, options_of
from longctx.options.engine import EngineSettings
from longctx.options.needle import NeedleOptions
from longctx.options.perplexity import PerplexityOptions
from longctx.options.shared import tokens
from longctx.serve.settings import ServeSettings


@dataclass(frozen=True)
class Told:
    """An option of every kind."""

    where: Annotated[Path, Argument("Where.", metavar="DIR")]
    length: Annotated[int, Option("How long.", "Box", tokens, lambda count: f"{count >> 10}K")] = (
        2048
    )
    least: Annotated[int | None, Option("At least.", read=tokens)] = None
    names: Annotated[tuple[str, ...], Option("Repeatable.", name="name")] = ()
    kind: Annotated[Literal["a", "b"], Option("a or b.")] = "a"
    share: Annotated[float, Option("A number.")] = 0.5
    count: Annotated[int, Option("A whole one.")] = 3
    loud: Annotated[bool, Option("A flag.")] = False
    sharing: Annotated[bool, Option("Off.", name="no_sharing", negated=True)] = True
    config: Annotated[Path | None, Option("A file with these.", is_file=True)] = None
    settled: int = 7


def told(*arguments: str) -> Told:
    found: list[Told] = []

    @command
    def say(options: Told) -> int:
        """Say it."""
        found.append(options)
        return 5

    app = typer.Typer()
    app.command()(say)
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 5, done.output  # what the function returns
    return found[0]


def test_a_command_line_makes_the_frozen_object() -> None:
    assert told("here") == Told(Path("here"))
    words = ["--length", "4K", "--least", "77", "--name", "x", "--name", "y", "--kind", "b"]
    words += ["--share", "2", "--count", "4", "--loud", "--no-sharing", "there"]
    expected = Told(Path("there"), 4096, 77, ("x", "y"), "b", 2.0, 4, True, False)
    assert told(*words) == expected


def test_a_file_makes_the_same_object_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "told.toml"
    file.write_text(
        'length = "4K"\nleast = 77\nname = ["x"]\nkind = "b"\ncount = 4\nloud = true\n'
        "no-sharing = true\nshare = 2\n"
    )
    made = told("here", "--config", str(file), "--count", "9")
    assert made == Told(Path("here"), 4096, 77, ("x",), "b", 2.0, 9, True, False, file)


def test_a_mapping_makes_the_same_object() -> None:
    content = {"where": "there", "length": "4K", "least": 77, "name": ["x", "y"], "kind": "b"}
    content |= {"share": 2, "count": 4.0, "loud": True, "no_sharing": True}
    expected = Told(Path("there"), 4096, 77, ("x", "y"), "b", 2.0, 4, True, False)
    assert from_mapping(Told, content) == expected
    assert from_words(Told, {"where": Path()}).settled == 7


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("cuont", 1, "cuont is no option: did you mean count?"),
        ("settled", 1, "settled is no option: use config, count, "),
        ("q", 1, "q is no option: use count, kind, "),
        ("count", "many", "count many: a number is needed"),
        ("count", 2.5, "count 2.5: a whole number is needed"),
        ("count", True, "count true: a number is needed"),
        ("count", float("inf"), "count inf: a number is needed"),
        ("share", "x", "share x: a number is needed"),
        ("loud", 1, "loud 1: true or false is needed"),
        ("loud", "yes", "loud yes: true or false is needed"),
        ("name", "x", "name x: a list of names is needed"),
        ("kind", True, "kind true: a text is needed"),
        ("count", None, "count: is empty: give a value, or leave it out"),
        ("length", "2X", "--length 2X: not a length"),
        ("length", "1K,2K", "--length 1K,2K: one number of tokens is needed"),
    ],
)
def test_what_a_file_cannot_say_is_one_line(key: str, value: Any, message: str) -> None:
    if key == "settled":
        message = "settled is no option: use count, "
    with pytest.raises(UserError) as caught:
        from_mapping(Told, {"where": ".", key: value})
    assert str(caught.value).startswith(message)


def test_nothing_is_said_twice_under_one_name() -> None:
    for kind in (NeedleOptions, PerplexityOptions, ServeSettings):
        names = [option.name for option in options_of(kind)]
        assert len(names) == len(set(names))
        assert all(option.about.help.endswith(".") for option in options_of(kind))


def test_every_default_reads_back_as_itself() -> None:
    """`2K` in the help is the 2048 of the dataclass."""
    for kind in (NeedleOptions, PerplexityOptions, ServeSettings):
        assert from_words(kind, {o.name: o.default_word for o in options_of(kind)}) == kind()


def test_a_default_exists_once() -> None:
    """Engine and server read EngineSettings; a flag of several commands has one default."""
    from longctx.engine import Engine

    engine = {
        name: parameter.default
        for name, parameter in inspect.signature(Engine).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name != "kv_dtype"
    }
    assert engine == {field.name: field.default for field in fields(EngineSettings)}
    server = {field.name: field.default for field in fields(ServeSettings)}
    for name in ("kernel", "chunk_budget", "max_running", "max_waiting"):
        assert server[name] == engine[name]
    assert server["kv_budget"] == engine["kv_budget_bytes"]
    own = {"model", "prefill_chunk"}  # embedded by a rule; passes of another kind
    defaults: dict[str, Any] = {}
    for kind in (NeedleOptions, PerplexityOptions, ServeSettings):
        for option in options_of(kind):
            if option.field not in own:
                assert defaults.setdefault(option.field, option.default) == option.default


def test_options_of_a_sweep_have_the_defaults_of_its_config() -> None:
    for kind, without in (
        (NeedleOptions, {"lengths", "depths", "repeats", "answer_prefix"}),  # by a rule
        (PerplexityOptions, {"lengths"}),
    ):
        config = kind().config
        for option in options_of(kind):
            if hasattr(config, option.field) and option.field not in without:
                assert option.default == getattr(config, option.field), option.field


def test_every_command_is_of_declared_options() -> None:
    """No command has a parameter beside those of its dataclass."""
    root = typer.main.get_command(cli.app)
    for name, word in root.commands.items():  # type: ignore[attr-defined]
        declared = inspect.unwrap(word.callback).options  # what `command` was given
        flags = {option.flag for option in options_of(declared)}
        flags |= {option.name for option in options_of(declared)}
        assert {param.opts[0] for param in word.params} <= flags, name
        for option in options_of(declared):
            assert option.required == (option.default is MISSING)
