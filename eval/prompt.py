"""One prompt of exact length with the needle at its depth.

Text is built first and tokenised once as a whole, as a user's text would be; the needle is found
again by character offsets. Splicing token ids instead would give sequences that no text has.

    introduction
    haystack … sentence. NEEDLE Sentence … haystack      <- cut at a sentence end, or anywhere
    question                                                 with `exact`
    [assistant header] answer prefix

Knows no model, no scoring and no files.
"""

from __future__ import annotations

import bisect
import hashlib
from array import array
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from longctx.errors import UserError
from longctx.eval.chat import ChatEncoder, Conversation, Encoded
from longctx.eval.haystack import Haystack, Slice, TokenMap
from longctx.eval.needle import LANGUAGE, TASK, WORDING_SHA256, Needle, make_needle, seeded
from longctx.eval.text import join

_BREAK = "\n\n"
# How far the nearest sentence end may lie from the depth asked for: 1.5 % of 4K, 0.2 % of 32K.
# Where a sentence is longer than that, the needle goes between clauses or words.
DEPTH_TOLERANCE_TOKENS = 60
# Tokens kept back when a haystack's start is drawn: one long sentence, cut at the end of the text.
_MARGIN_TOKENS = 256
_EXACT_STARTS = 64


@dataclass(frozen=True)
class Recipe:
    """Everything that a prompt is a function of. Equal recipes give equal bytes."""

    length: int
    depth: float
    seed: int
    repeat: int
    answer_tokens: int
    answer_prefix: str
    system: str | None
    exact: bool
    allow_repeat: bool
    haystack_sha256: str
    tokenizer_sha256: str
    template_sha256: str
    task: str = TASK
    language: str = LANGUAGE
    wording_sha256: str = WORDING_SHA256

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Prompt:
    """`needle_span` and `question_start` count tokens of `ids`; `depth_actual` is in percent."""

    ids: list[int]
    conversation: Conversation
    needle: Needle
    slack: int
    depth_actual: float
    needle_span: tuple[int, int]
    question_start: int
    haystack_offset: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(array("q", self.ids).tobytes()).hexdigest()

    @property
    def distance_to_question(self) -> int:
        return self.question_start - self.needle_span[1]


class ClosedBook(NamedTuple):
    ids: list[int]
    expected: tuple[str, ...]
    conversation: Conversation


class Body(NamedTuple):
    """A conversation that fills its length; the first `start` characters of text are left out."""

    conversation: Conversation
    encoded: Encoded
    start: int = 0


class PromptBuilder:
    """Builds the prompts of one haystack under one tokenizer and template."""

    def __init__(self, haystack: Haystack, chat: ChatEncoder, *, allow_repeat: bool) -> None:
        self.haystack = haystack
        self._chat = chat
        self._map = TokenMap(haystack, chat.offsets, allow_repeat)

    @property
    def haystack_tokens(self) -> int:
        return self._map.tokens

    def build(self, recipe: Recipe) -> Prompt:
        needle = self._needle(recipe)
        budget = recipe.length - recipe.answer_tokens
        fitted = self._fit(recipe, needle, budget)
        return _measure(fitted, needle, budget)

    def build_closed_book(self, recipe: Recipe) -> ClosedBook:
        """The same question over the same text without the needle: the control."""
        needle = self._needle(recipe)
        fitted = self._fit(
            recipe, replace(needle, statement=""), recipe.length - recipe.answer_tokens
        )
        if needle.value in fitted.conversation.user:
            raise AssertionError(f"the needle's value {needle.value} is in a closed-book prompt")
        return ClosedBook(fitted.encoded.ids, needle.expected, fitted.conversation)

    def _needle(self, recipe: Recipe) -> Needle:
        return make_needle(
            self.haystack,
            seed=recipe.seed,
            length=recipe.length,
            repeat=recipe.repeat,
            answer_prefix=recipe.answer_prefix,
        )

    def _fit(self, recipe: Recipe, needle: Needle, budget: int) -> Body:
        bare = len(self._encode(recipe, needle, "", 0)[1].ids)
        wanted = budget - bare  # tokens of haystack, but for merges at its two seams
        if wanted < 1:
            raise UserError(
                f"--lengths {recipe.length}: template, question and answer alone take "
                f"{bare + recipe.answer_tokens} tokens: give a larger length"
            )
        offset = self._offset(recipe, wanted)
        hay = self._map.slice(offset, wanted + _MARGIN_TOKENS)
        if len(hay.token_ends) < wanted:
            raise UserError(
                f"--haystack {self.haystack.id}: a prompt of {recipe.length} tokens needs {wanted} "
                f"of haystack, and it has {len(hay.token_ends)} of them: add text, lower "
                "--lengths, or pass --allow-repeat"
            )
        fit = self._fit_exactly if recipe.exact else self._fit_sentences
        body = fit(recipe, needle, hay, wanted, budget)
        return body._replace(start=offset + body.start)

    def _offset(self, recipe: Recipe, wanted: int) -> int:
        rng = seeded("offset", recipe.seed, recipe.length, recipe.repeat)
        return self._map.start_for(wanted + _MARGIN_TOKENS, rng.random())

    def _encode(
        self, recipe: Recipe, needle: Needle, hay: str, place: int
    ) -> tuple[Conversation, Encoded]:
        before, after = hay[:place], hay[place:]
        body = (
            before
            + join(before, needle.statement)
            + needle.statement
            + join(needle.statement, after)
            + after
        )
        user = _BREAK.join((needle.introduction, body, needle.question))
        conversation = Conversation(user, recipe.system, needle.answer_prefix)
        return conversation, self._chat.encode(conversation)

    def _fit_sentences(
        self, recipe: Recipe, needle: Needle, hay: Slice, wanted: int, budget: int
    ) -> Body:
        """Cut at the last sentence end that fits: what is left over is less than a sentence."""
        cut = hay.boundaries.last_sentence_end(hay.character_after(wanted + _MARGIN_TOKENS // 8))
        while cut:
            place = _place(hay, cut, recipe.depth)
            conversation, encoded = self._encode(recipe, needle, hay.text[:cut], place)
            if len(encoded.ids) <= budget:
                return Body(conversation, encoded)
            cut = hay.boundaries.last_sentence_end(cut - 1)
        raise UserError(
            f"--lengths {recipe.length}: not one sentence of {self.haystack.id} fits: "
            "give a larger length, or pass --exact"
        )

    def _fit_exactly(
        self, recipe: Recipe, needle: Needle, hay: Slice, wanted: int, budget: int
    ) -> Body:
        """Cut anywhere so that not one token is left over.

        Where characters take several tokens (Chinese under an English vocabulary) no cut may hit
        the count; another first character shifts all counts, so a few of those are tried.
        """
        for skipped in range(_EXACT_STARTS):
            rest = hay.without(skipped)
            aim, tried = wanted, set[int]()
            while (cut := rest.character_after(aim)) not in tried and cut:
                tried.add(cut)
                place = _place(rest, cut, recipe.depth)
                body = Body(*self._encode(recipe, needle, rest.text[:cut], place), skipped)
                missing = budget - len(body.encoded.ids)
                if missing == 0:
                    return body
                aim += missing
        raise UserError(
            f"--exact: no cut of {self.haystack.id} gives exactly {recipe.length} tokens: "
            "leave --exact out"
        )


def _measure(fitted: Body, needle: Needle, budget: int) -> Prompt:
    """Find needle and question in the tokens, and check that the answer stands there once."""
    conversation, encoded = fitted.conversation, fitted.encoded
    user = conversation.user
    if user.count(needle.value) != 1 or needle.value in conversation.answer_prefix:
        raise AssertionError(f"the needle's value {needle.value} is not once in the prompt")
    starts = [start for start, _ in encoded.user_offsets]
    ends = [end for _, end in encoded.user_offsets]

    def token_at(character: int) -> int:
        """The first token that reaches past the character."""
        return bisect.bisect_right(ends, character)

    body_start = len(needle.introduction) + len(_BREAK)
    needle_start = user.index(needle.statement, body_start)
    question_start = len(user) - len(needle.question)
    first = token_at(needle_start)
    last = bisect.bisect_left(starts, needle_start + len(needle.statement))
    body_first = token_at(body_start)
    body_last = token_at(question_start - len(_BREAK) - 1)
    hay_tokens = body_last + 1 - body_first - (last - first)
    depth = 100.0 * (first - body_first) / max(hay_tokens, 1)
    return Prompt(
        ids=encoded.ids,
        conversation=conversation,
        needle=needle,
        slack=budget - len(encoded.ids),
        depth_actual=round(min(max(depth, 0.0), 100.0), 3),
        needle_span=(encoded.user_start + first, encoded.user_start + last),
        question_start=encoded.user_start + token_at(question_start),
        haystack_offset=fitted.start,
    )


def _place(hay: Slice, cut: int, depth: float) -> int:
    """The character to insert at: the nearest sentence end, or a weaker border if that is far."""
    total = hay.tokens_before(cut)
    target = depth / 100 * total
    if depth <= 0:
        return 0
    if depth >= 100:
        return cut
    best, best_distance = cut, abs(total - target)
    if target < best_distance:
        best, best_distance = 0, target
    for candidates in hay.boundaries.near(hay.character_after(round(target)), cut):
        for place in candidates:
            distance = abs(hay.tokens_before(place) - target)
            if distance < best_distance:
                best, best_distance = place, distance
        if best_distance <= DEPTH_TOLERANCE_TOKENS:
            break
    return best
