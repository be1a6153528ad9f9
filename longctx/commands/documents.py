"""`longctx documents`: what is kept, with a running server or without one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from longctx.commands.command import command
from longctx.errors import UserError
from longctx.options import shared
from longctx.options.declare import Argument, Option
from longctx.options.shared import SCHEME, DocumentBudget, DocumentDirectory, parse_bytes, tokens
from longctx.tiny import EMBEDDED

if TYPE_CHECKING:
    from longctx.documents.documents import Documents
    from longctx.documents.store import DocumentStore

_ADD, _SERVER = "Of add", "Server"
_TOLD_EVERY = 0.2  # seconds
_PATIENCE_S = 600.0  # a large document is made into tokens before the answer


@dataclass(frozen=True)
class DocumentsOptions:
    action: Annotated[str, Argument("list, add, remove or verify.", metavar="ACTION")]
    items: Annotated[
        tuple[str, ...],
        Argument("Text files to add; ids to remove or to verify.", metavar="[FILE|ID...]"),
    ] = ()
    document_store: DocumentDirectory = None
    document_budget: DocumentBudget = 20 << 30
    server: Annotated[
        str | None, Option("URL of a running server, which has the store.", _SERVER)
    ] = None
    api_key: Annotated[str | None, Option("The server's key.", _SERVER)] = None
    text_only: Annotated[
        bool, Option("Keep the text; keys are computed when it is first asked.", _ADD)
    ] = False
    model: Annotated[str, Option("What reads the documents, as of `longctx serve`.", _ADD)] = (
        EMBEDDED
    )
    dtype: shared.Dtype = shared.AUTO
    quantize: shared.Quantize = shared.PLAIN
    kv_dtype: shared.KvDtype = shared.AUTO
    kv_budget: Annotated[
        int | None, Option("Memory for keys and values, as 4G.", _ADD, parse_bytes)
    ] = None
    method: Annotated[str | None, Option("Position scheme, as of `longctx serve`.", SCHEME)] = None
    context: Annotated[
        int | None, Option("Tokens of prompt and answer, as 128K.", SCHEME, tokens)
    ] = None
    json: shared.Json = False


@command
def documents(options: DocumentsOptions) -> int | None:
    """List, add, remove or verify the documents that are kept for questions."""
    acts = {"list": _list, "add": _add, "remove": _remove, "verify": _verify}
    if options.action not in acts:
        raise UserError(f"ACTION {options.action}: use {', '.join(acts)}")
    if options.action in ("add", "remove") and not options.items:
        what = "files" if options.action == "add" else "ids"
        raise UserError(f"ACTION {options.action}: name {what}, one or more")
    if options.action == "list" and options.items:
        raise UserError(f"ACTION list: takes no {options.items[0]}: leave it out")
    if options.server is not None and options.text_only:
        raise UserError(
            f"--text-only with --server {options.server}: a server reads what it keeps: leave one "
            "of them out"
        )
    return acts[options.action](options)


def _list(options: DocumentsOptions) -> None:
    if options.server is not None:
        found = _ask(options, "GET", "/documents")["data"]
        print_documents(found, None, options.json)
        return
    with _store(options, reads_only=True) as store:
        found = [record.to_dict() for record in store.records()]
        print_documents(found, store, options.json)


def print_documents(
    found: list[dict[str, Any]], store: DocumentStore | None, as_json: bool
) -> None:
    """A table, or one JSON object."""
    damaged = {} if store is None else store.damaged
    if as_json:
        told: dict[str, Any] = {"documents": found, "damaged": damaged}
        if store is not None:
            told |= {"store": str(store.directory), "bytes": store.used_bytes}
        print(json.dumps(told))
        return
    width = max((len(one["name"]) for one in found), default=0)
    for one in found:
        total, stored = one["tokens"], one["stored_tokens"]
        computed = "text alone" if not stored else f"{stored:,} tokens stored"
        if stored and stored != total:
            computed = f"{stored:,} of {total:,} tokens stored"
        print(f"{one['id']}  {one['name']:<{width}}  {one['bytes']:>13,} bytes  {computed}")
    for id, why in damaged.items():
        print(f"{id}  damaged: {why}")
    if store is not None:
        size = f"{store.used_bytes:,} of {store.budget:,} bytes"
        what = "1 document" if len(found) == 1 else f"{len(found)} documents"
        print(f"{what} in {store.directory}, {size}", file=sys.stderr)


def _add(options: DocumentsOptions) -> None:
    read = [_read(name) for name in options.items]
    if options.server is not None:
        _tell_added([_add_by_server(options, *each) for each in read], options)
    elif options.text_only:
        with _store(options) as store, _changing(store):
            _tell_added([store.add(*each).to_dict() for each in read], options)
    else:
        with _loaded(options) as made:
            _tell_added([_add_here(made, *each) for each in read], options)


def _read(name: str) -> tuple[str, str]:
    from longctx.chat.documents import name_of_file
    from longctx.reading import ReadingError, read_word

    try:
        found = read_word(name)
    except ReadingError as error:
        raise UserError(f"FILE {error}") from error
    for note in found.notes:
        print(f"{name}: {note}", file=sys.stderr)
    return name_of_file(found.name), found.text


def _add_here(made: Documents, name: str, text: str) -> dict[str, Any]:
    from longctx.engine import ContextLengthError

    try:
        live = made.add(name, text)
    except ContextLengthError as error:
        raise UserError(
            f"FILE {name}: too long: {error.prompt_tokens:,} tokens, and the context is "
            f"{error.limit:,}, of which question and answer need some: split it, or raise --context"
        ) from error
    except UserError as error:
        raise UserError(f"FILE {name}: {error}") from error
    with _progress(name) as tell:
        while not made.wait(live, _TOLD_EVERY):
            tell(made.told(live))
    told = made.told(live)
    if not told["persistent"]:
        raise UserError(f"FILE {name}: is not stored: {told['reason']}")
    return told


def _add_by_server(options: DocumentsOptions, name: str, text: str) -> dict[str, Any]:
    told = _ask(options, "POST", "/documents", {"name": name, "text": text})
    with _progress(name) as tell:
        while told["state"] in ("queued", "prefill"):
            time.sleep(_TOLD_EVERY)
            told = _ask(options, "GET", f"/documents/{told['id']}")
            tell(told)
    if told["state"] == "failed":
        raise UserError(f"FILE {name}: {told['reason']}")
    if not told["persistent"]:
        print(f"{name}: kept until the server ends: {told['reason']}", file=sys.stderr)
    return told


@contextmanager
def _progress(name: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A line on a terminal's stderr, which goes in the end."""
    began, shown = time.monotonic(), sys.stderr.isatty()

    def tell(told: dict[str, Any]) -> None:
        done, total = told["progress"]["processed"], told["progress"]["total"]
        left = ""
        if done and total and done < total:
            left = f", {(time.monotonic() - began) * (total - done) / done:.0f} s left"
        if shown:
            print(f"\r{name}: {done:,} of {total:,} tokens{left}\x1b[K", end="", file=sys.stderr)

    try:
        yield tell
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr)


def _tell_added(added: list[dict[str, Any]], options: DocumentsOptions) -> None:
    if options.json:
        print(json.dumps({"documents": added}))
        return
    for one in added:
        tokens_ = "text alone" if not one["stored_tokens"] else f"{one['stored_tokens']:,} tokens"
        print(f"{one['id']}  {one['name']}  {one['bytes']:,} bytes  {tokens_}")


def _remove(options: DocumentsOptions) -> None:
    if options.server is not None:
        for id in options.items:
            _ask(options, "DELETE", f"/documents/{id}")
    else:
        with _store(options) as store:
            unknown = [id for id in options.items if not store.get(id) and id not in store.damaged]
            if unknown:
                raise UserError(f"ID {unknown[0]}: there is no such document in {store.directory}")
            with _changing(store):
                for id in options.items:
                    store.remove(id)
    if options.json:
        print(json.dumps({"removed": list(options.items)}))
    else:
        print(f"removed {', '.join(options.items)}")


def _verify(options: DocumentsOptions) -> int | None:
    if options.server is not None:
        raise UserError("--server: verify reads the directory itself: leave it out")
    with _store(options, reads_only=True) as store:
        known = [*(record.id for record in store.records()), *store.damaged]
        for id in options.items:
            if id not in known:
                raise UserError(f"ID {id}: there is no such document in {store.directory}")
        found = {id: store.faults(id) for id in options.items or known}
    if options.json:
        print(json.dumps({"documents": found}))
    else:
        for id, faults in found.items():
            print(f"{id}  {'; '.join(faults) or 'as it was written'}")
    return 1 if any(found.values()) else None


# -- where they are -------------------------------------------------------------------------------


def _store(options: DocumentsOptions, *, reads_only: bool = False) -> DocumentStore:
    from longctx.documents.store import DocumentStore, default_directory

    directory = options.document_store or default_directory()
    return DocumentStore(directory, options.document_budget, reads_only=reads_only)


@contextmanager
def _changing(store: DocumentStore) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--document-store {store.directory}: cannot be written to ({error.strerror}): make "
            "room, or name another directory"
        ) from error


@contextmanager
def _loaded(options: DocumentsOptions) -> Iterator[Documents]:
    """The model, in this process, over the store."""
    with _store(options) as store:  # before a model is loaded in vain
        from longctx.chat.process import TemplateProcess
        from longctx.chat.renderer import ChatRenderer
        from longctx.documents.documents import Documents
        from longctx.serve.loading import prepare
        from longctx.serve.settings import ServeSettings

        settings = ServeSettings(
            options.model,
            method=options.method,
            context=options.context,
            dtype=options.dtype,
            quantize=options.quantize,
            kv_dtype=options.kv_dtype,
            kv_budget=options.kv_budget,
        )
        loaded = prepare(settings).load()
        with loaded.engine.start(), TemplateProcess(loaded.tokenizer) as process:
            made = Documents(
                loaded.engine, ChatRenderer(loaded.tokenizer, process), loaded.facts, store
            )
            try:
                yield made
            finally:
                made.close()


def _ask(options: DocumentsOptions, method: str, path: str, body: Any = None) -> Any:
    """Of a running server.

    Raises:
        UserError: it does not answer, or what it refuses.
    """
    import httpx

    from longctx.ask.server import base_of, client_of

    base = base_of(options.server or "", "--server")
    try:
        with client_of(base, options.api_key, _PATIENCE_S) as client:
            answer = client.request(method, path, json=body)
        told = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        why = str(error) or type(error).__name__
        raise UserError(
            f"--server {options.server}: does not answer as longctx does ({why}): is it up? "
            "Without --server the store itself is used"
        ) from error
    if answer.status_code != 200:
        about = told.get("error") if isinstance(told, dict) else None
        message = about.get("message", "") if isinstance(about, dict) else ""
        raise UserError(
            f"--server {options.server}: refuses ({answer.status_code}): "
            f"{' '.join(str(message).split())[:500]}"
        )
    return told
