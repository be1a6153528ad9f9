"""The options of `longctx ask`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from longctx.errors import UserError
from longctx.options import shared
from longctx.options.declare import Argument, Option
from longctx.options.shared import SCHEME, TEXT

_WHO = "Who answers"
SYSTEM = "Answer the question from the documents above."


@dataclass(frozen=True)
class AskOptions:
    """What was said. None stands where a rule decides: ask/choose.py."""

    words: Annotated[
        tuple[str, ...],
        Argument(
            "Files (text, Markdown, HTML, PDF), folders of code, or - for standard input; then "
            "the question.",
            metavar='FILE... "QUESTION"',
        ),
    ] = ()
    interactive: Annotated[
        bool,
        Option(
            "Ask for questions, one after the other; each is answered by itself. The words are "
            "files then, and a last one that is no file but a question is the first."
        ),
    ] = False
    sources: Annotated[
        bool,
        Option(
            "Under the answer: where in the documents its words stand, for you to check. Found "
            "by comparing words, not by the model."
        ),
    ] = False
    json: shared.Json = False
    model: Annotated[
        str | None,
        Option(
            "A directory, hub id, GGUF file, or smollm2. Default: LONGCTX_MODEL, else what the "
            "server has, else the small model in the package.",
            _WHO,
        ),
    ] = None
    server: Annotated[
        str | None,
        Option(
            "Ask the server at this address. Default: LONGCTX_SERVER, else http://127.0.0.1:8000 "
            "where longctx serves the model there. Keys: LONGCTX_API_KEY, OPENAI_API_KEY.",
            _WHO,
        ),
    ] = None
    local: Annotated[bool, Option("Ask no server: load the model here.", _WHO)] = False
    max_tokens: Annotated[int, Option("Tokens of an answer, at most.", _WHO)] = 512
    temperature: Annotated[float, Option("0 is greedy: the same answer every time.", _WHO)] = 0.0
    system: Annotated[
        str, Option("What the model is told behind the documents; '' for nothing.", TEXT)
    ] = SYSTEM
    encoding: shared.Encoding = None
    document_store: shared.DocumentDirectory = None
    document_budget: shared.DocumentBudget = 20 << 30
    no_document_store: Annotated[
        bool,
        Option(
            "Keep nothing of the documents, and use nothing that is kept; a server gets them in "
            "the question.",
            shared.DOCUMENTS,
        ),
    ] = False
    method: Annotated[
        str | None,
        Option("Position scheme, as in `longctx serve`. Default: the family's.", SCHEME),
    ] = None
    context: Annotated[
        int | None,
        Option(
            "Tokens of documents, question and answer, as 128K. Default: the method's, or what "
            "fits.",
            SCHEME,
            shared.tokens,
        ),
    ] = None
    dtype: shared.Dtype = shared.AUTO
    quantize: shared.Quantize = shared.PLAIN
    kv_dtype: shared.KvDtype = shared.AUTO
    device_map: shared.DeviceMap = shared.AUTO

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"--max-tokens {self.max_tokens}: must be at least 1")
        if self.document_budget < 1:
            raise UserError(f"--document-budget {self.document_budget}: must be at least 1")
        if self.no_document_store and self.document_store is not None:
            raise UserError(
                f"--no-document-store with --document-store {self.document_store}: leave one of "
                "them out"
            )
        if not 0 <= self.temperature <= 100:
            raise UserError(f"--temperature {self.temperature:g}: must be 0 to 100")
        shared.check_quantize(self.quantize)
        shared.check_kv_dtype(self.kv_dtype)
        if self.local and self.server is not None:
            raise UserError(f"--local with --server {self.server}: leave one of them out")
