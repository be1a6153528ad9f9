"""RULER's question answering over the user's own file: SQuAD (qa_1) and HotpotQA (qa_2).

    SQuAD JSON     {"data": [{"paragraphs": [{"context", "qas": [{"question", "answers"}]}]}]}
    HotpotQA JSON  [{"question", "answer", "context": [[title, [sentence, ...]], ...]}]
    own JSON(L)    {"question": str, "answers": [str], "documents": [str]}, a list or lines

The documents of the question stand among as many others as fit, in seeded order; the map has one
row. Nothing is downloaded and nothing ships with the package.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from longctx.errors import UserError
from longctx.eval.needle.needle import seeded
from longctx.eval.sample import Filled, Sample, Span
from longctx.eval.tasks.base import About, Options
from longctx.eval.texts.haystack import Haystack

if TYPE_CHECKING:
    from longctx.eval.spec import PromptSpec

_ORDER = (
    "Answer the question based on the given documents. Only give me the answer and do not output "
    "any other words."
)
_INTRODUCTION = f"{_ORDER}\n\nThe following are given documents."
_QUESTION = _ORDER + "\n\nQuestion: {key}"
_PREFIX = "Answer:"
_DOCUMENT = "Document {n}:\n{text}"


class Question(NamedTuple):
    """`documents` hold the answer; `near` are of the same article and are taken first."""

    text: str
    answers: tuple[str, ...]
    documents: tuple[str, ...]
    near: tuple[str, ...] = ()


class Questions(NamedTuple):
    questions: list[Question]
    documents: list[str]


@dataclass(frozen=True)
class QuestionAnswering:
    name: str
    summary: str

    @property
    def about(self) -> About:
        return About(self.name, self.summary, 32, has_depth=False, questions=True)

    def wording(self, language: str, options: Options) -> str:
        return "\n".join((self.name, _INTRODUCTION, _QUESTION, _PREFIX, _DOCUMENT))

    def answer_prefix(self, language: str, options: Options) -> str:
        return _PREFIX

    def sample(self, recipe: PromptSpec, haystack: Haystack) -> Sample:
        data = read(haystack.id, haystack.text)
        # The same order of questions at every length: repeat n is question n of it.
        order = seeded(self.name, recipe.seed).sample(
            range(len(data.questions)), len(data.questions)
        )
        asked = data.questions[order[recipe.repeat % len(order)]]
        rng = seeded(self.name, recipe.seed, recipe.length, recipe.repeat)
        gold = list(asked.documents)
        near = [text for text in asked.near if text not in gold]
        rng.shuffle(near)
        known = {*gold, *near}
        rest = [text for text in data.documents if text not in known]
        rng.shuffle(rest)
        others = [*near, *rest]
        shuffle = rng.getrandbits(64)

        def fill(units: int, evidence: bool) -> Filled:
            if units > len(others) and not recipe.allow_repeat:
                raise TooFewError
            rounds = -(-units // max(len(others), 1))
            # A question's documents stand once, however often the others do.
            chosen = [(text, False) for text in (others * rounds)[:units]]
            chosen += [(text, True) for text in gold] if evidence else []
            seeded(shuffle, units).shuffle(chosen)
            parts, spans, size = [], [], 0
            for n, (text, needed) in enumerate(chosen, start=1):
                part = _DOCUMENT.format(n=n, text=text)
                if needed:
                    spans.append(Span(size, size + len(part), True, False))
                parts.append(part)
                size += len(part) + 2
            return Filled("\n\n".join(parts), spans)

        return Sample(
            introduction=_INTRODUCTION,
            question=_QUESTION.format(key=asked.text),
            answer_prefix=recipe.answer_prefix,
            expected=asked.answers,
            match="part",
            fill=fill,
            fewest=0,
        )


class TooFewError(Exception):
    """The file has no more documents. `prompt` says so with the length in question."""


TASKS = (
    QuestionAnswering("qa_1", "RULER: a question on documents of your SQuAD file (--qa)"),
    QuestionAnswering("qa_2", "RULER: a question on documents of your HotpotQA file (--qa)"),
)


@lru_cache(maxsize=2)
def read(name: str, text: str) -> Questions:
    """Questions and documents of a file in any of the three forms.

    Raises:
        UserError: not JSON, no form that is known, or a question without answers or documents.
    """
    try:
        data = json.loads(text)
    except ValueError:
        try:
            data = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise UserError(f"--qa {name}: neither JSON nor JSON lines ({error})") from None
    try:
        questions = list(_squad(data) if isinstance(data, dict) else _listed(data))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"--qa {name}: not SQuAD, HotpotQA or question/answers/documents ({error!r})"
        ) from None
    if not questions:
        raise UserError(f"--qa {name}: there is no question with an answer in it")
    everything = {
        text: None for question in questions for text in (*question.documents, *question.near)
    }
    return Questions(questions, sorted(everything))


def _squad(data: dict[str, Any]) -> Iterator[Question]:
    for article in data["data"]:
        contexts = tuple(part["context"] for part in article["paragraphs"])
        for part in article["paragraphs"]:
            for one in part["qas"]:
                if one.get("is_impossible"):
                    continue
                answers = tuple(answer["text"] for answer in one["answers"])
                yield _checked(one["question"], answers, (part["context"],), contexts)


def _listed(data: list[dict[str, Any]]) -> Iterator[Question]:
    for one in data:
        if "context" in one:
            texts = tuple(f"{title}\n{''.join(parts)}" for title, parts in one["context"])
            yield _checked(one["question"], (one["answer"],), texts)
        else:
            yield _checked(one["question"], tuple(one["answers"]), tuple(one["documents"]))


def _checked(
    text: str, answers: tuple[str, ...], documents: tuple[str, ...], near: tuple[str, ...] = ()
) -> Question:
    strings = (text, *answers, *documents)
    if not answers or not documents or not all(map(_is_text, strings)):
        raise ValueError(f"question {text!r:.60} lacks answers or documents, or one is empty")
    return Question(text, answers, documents, tuple(one for one in near if one not in documents))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
