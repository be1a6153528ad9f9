"""A command of the command line from a function of its options: what typer is told derives here.

    @command
    def plan(options: PlanOptions) -> None:
        '''What `--help` says.'''

Words of an environment variable and of a TOML file come in here too.
"""

from __future__ import annotations

import inspect
import tomllib
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from longctx.errors import UserError
from longctx.options.declare import Argument, Declared, from_words, options_of, words_of

T = TypeVar("T")


def command(run: Callable[[T], int | None]) -> Callable[..., None]:
    """Take the words of typer, call `run` with the options, exit with its code."""
    (kind,) = (hint for name, hint in typing.get_type_hints(run).items() if name != "return")
    file = next((option for option in options_of(kind) if option.about.is_file), None)

    def start(context_: typer.Context, **words: Any) -> None:
        if file is not None and words[file.name] is not None:
            words |= {
                name: word
                for name, word in _read_file(kind, file, words[file.name]).items()
                if not _was_said(context_, name)
            }
        code = run(from_words(kind, words))
        if code:
            raise typer.Exit(code)

    start.__name__, start.__doc__ = run.__name__, run.__doc__
    start.options = kind  # type: ignore[attr-defined]  # for the pages in docs/
    parameters = [_parameter("context_", typer.Context)]
    parameters += [_of_option(option) for option in options_of(kind)]
    start.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    start.__annotations__ = {each.name: each.annotation for each in parameters}
    return start


def _parameter(name: str, kind: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _of_option(option: Declared) -> inspect.Parameter:
    about = option.about
    shown: Any
    if isinstance(about, Argument):
        shown = typer.Argument(
            help=about.help,
            metavar=about.metavar,
            envvar=about.environment,
            show_default=option.default_word is not None,
        )
    else:
        # A flag that is either there or not has no --no- beside it.
        shown = typer.Option(option.flag, help=about.help, rich_help_panel=about.panel)
    default = inspect.Parameter.empty if option.required else option.default_word
    return _parameter(option.name, Annotated[option.word, shown], default)


def _was_said(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def _read_file(kind: type[Any], file: Declared, path: Path) -> dict[str, Any]:
    """Options of a TOML file, by their flags' names with - or _.

    Raises:
        UserError: no such file, no TOML, an unknown name or a value of the wrong kind.
    """
    where = f"{file.flag} {path}: "
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{where}cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{where}not TOML ({error}): correct it") from error
    return words_of(kind, found, where, lambda key, value: f"{key} = {value!r}")
