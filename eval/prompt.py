"""One prompt of exact length with what a task hides at its depth.

Text is built first and tokenised once as a whole, as a user's text would be; the needle is found
again by character offsets. Splicing token ids instead would give sequences that no text has.

    introduction
    haystack … sentence. NEEDLE Sentence … haystack      <- cut at a sentence end, or anywhere
    question                                                 with `exact`
    [assistant header] answer prefix

A task that brings its own text (`fill`) gets as many units of it as fit. Knows no model, no
scoring, no files, and no task by name.
"""

from __future__ import annotations

import bisect
import hashlib
from array import array
from dataclasses import dataclass
from typing import NamedTuple

from longctx.chat.encoder import ChatEncoder, Conversation, Encoded
from longctx.errors import UserError
from longctx.eval import tasks
from longctx.eval.needle.needle import seeded
from longctx.eval.sample import Filled, Sample, Span, weave
from longctx.eval.scoring import Match
from longctx.eval.spec import PromptSpec
from longctx.eval.tasks.qa import TooFewError
from longctx.eval.texts.haystack import Haystack, Slice, TokenMap
from longctx.eval.texts.text import BOUNDARIES, Boundary

# How far the nearest sentence end may lie from the depth asked for: 1.5 % of 4K, 0.2 % of 32K.
# Where a sentence is longer than that, the needle goes between clauses or words.
DEPTH_TOLERANCE_TOKENS = 60
# Tokens kept back when a haystack's start is drawn: one long sentence, cut at the end of the text.
_MARGIN_TOKENS = 256
_EXACT_STARTS = 64
# Units of a task's own text after which its tokens per unit are known well enough to go on from.
_PROBE_UNITS = 16


@dataclass(frozen=True)
class Prompt:
    """Spans and `question_start` count tokens of `ids`; `depth_actual` is in percent.

    `needle_span` is what depth speaks of. Where the evidence is spread (`depth_actual` is None) it
    reaches from the first to the last of `evidence_spans`; None where the whole text is evidence.
    """

    ids: list[int]
    conversation: Conversation
    sample: Sample
    slack: int
    depth_actual: float | None
    needle_span: tuple[int, int] | None
    evidence_spans: list[tuple[int, int]]
    question_start: int
    haystack_offset: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(array("q", self.ids).tobytes()).hexdigest()

    @property
    def distance_to_question(self) -> int | None:
        return None if self.needle_span is None else self.question_start - self.needle_span[1]


class ClosedBook(NamedTuple):
    ids: list[int]
    expected: tuple[str, ...]
    match: Match
    conversation: Conversation


class FilledConversation(NamedTuple):
    """A conversation that fills its length; the first `start` characters of text are left out."""

    conversation: Conversation
    encoded: Encoded
    spans: list[Span]  # characters of the user's message
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

    def build(self, recipe: PromptSpec) -> Prompt:
        sample = tasks.get(recipe.task).sample(recipe, self.haystack)
        budget = recipe.length - recipe.answer_tokens
        return _measure(self._fit(recipe, sample, budget), sample, budget)

    def fits(self, recipe: PromptSpec) -> bool:
        """Whether the task's shortest prompt does: where it does not, `build` says so.
        Its words are drawn, so that one sample may fit where another is too long."""
        sample = tasks.get(recipe.task).sample(recipe, self.haystack)
        text, least = self._no_text(sample), 1
        if sample.fill is not None:
            text, least = sample.fill(sample.fewest, True), 0
        size = len(self._encode(recipe, sample, text).encoded.ids)
        return size + least <= recipe.length - recipe.answer_tokens

    def build_closed_book(self, recipe: PromptSpec) -> ClosedBook:
        """The same question over the same text without its evidence: the control."""
        sample = tasks.get(recipe.task).sample(recipe, self.haystack).closed_book()
        # What the evidence took is text now: a haystack that just sufficed is no error here.
        budget = recipe.length - recipe.answer_tokens
        fitted = self._fit(recipe, sample, budget, all_there_is=True)
        for secret in sample.secrets:
            if secret in fitted.conversation.user:
                raise AssertionError(f"the needle's value {secret} is in a closed-book prompt")
        return ClosedBook(fitted.encoded.ids, sample.expected, sample.match, fitted.conversation)

    def _fit(
        self, recipe: PromptSpec, sample: Sample, budget: int, *, all_there_is: bool = False
    ) -> FilledConversation:
        """With `all_there_is`, too little text gives a shorter prompt, else an error."""
        bare = len(self._encode(recipe, sample, self._no_text(sample)).encoded.ids)
        wanted = budget - bare  # tokens of haystack, but for merges at its seams
        if wanted < 1:
            raise UserError(
                f"--lengths {recipe.length}: template, needles, question and answer alone take "
                f"{bare + recipe.answer_tokens} tokens: give a larger length"
            )
        if sample.fill is not None:
            return self._fit_units(recipe, sample, budget, all_there_is)
        offset = self._offset(recipe, wanted)
        hay = self._map.slice(offset, wanted + _MARGIN_TOKENS)
        if len(hay.token_ends) < wanted:
            # Where tokens are uneven (Chinese before English) the start was a bad guess.
            offset = self._map.last_start(wanted + _MARGIN_TOKENS, offset, recipe.boundary)
            hay = self._map.slice(offset, wanted + _MARGIN_TOKENS)
        if len(hay.token_ends) < wanted and not all_there_is:
            raise UserError(
                f"--haystack {self.haystack.id}: a prompt of {recipe.length} tokens needs {wanted} "
                f"of haystack, and it has {len(hay.token_ends)} of them: add text, lower "
                "--lengths, or pass --allow-repeat"
            )
        exact = recipe.exact and len(hay.token_ends) >= wanted
        fit = self._fit_exactly if exact else self._fit_sentences
        body = fit(recipe, sample, hay, wanted, budget)
        return body._replace(start=offset + body.start)

    def _no_text(self, sample: Sample) -> Filled:
        if sample.fill is not None:
            return Filled("", [])
        return weave("", [(0, statement) for statement in sample.statements])

    def _offset(self, recipe: PromptSpec, wanted: int) -> int:
        rng = seeded("offset", recipe.seed, recipe.length, recipe.repeat)
        return self._map.start_for(wanted + _MARGIN_TOKENS, rng.random(), recipe.boundary)

    def _encode(self, recipe: PromptSpec, sample: Sample, text: Filled) -> FilledConversation:
        head = sample.introduction + sample.before
        user = head + text.text + sample.after + sample.question
        conversation = Conversation(user, recipe.system, sample.answer_prefix)
        spans = [
            span._replace(start=len(head) + span.start, end=len(head) + span.end)
            for span in text.spans
        ]
        return FilledConversation(conversation, self._chat.encode(conversation), spans)

    def _with(self, recipe: PromptSpec, sample: Sample, hay: Slice, cut: int) -> FilledConversation:
        """The prompt with the first `cut` characters of the slice and its statements in them."""
        placed = [(_place(hay, cut, one.depth, recipe.boundary), one) for one in sample.statements]
        placed.sort(key=lambda pair: (pair[0], pair[1].depth))
        return self._encode(recipe, sample, weave(hay.text[:cut], placed))

    def _fit_sentences(
        self, recipe: PromptSpec, sample: Sample, hay: Slice, wanted: int, budget: int
    ) -> FilledConversation:
        """Cut at the last sentence end that fits: what is left over is less than a sentence.

        Where not one fits, at the last line end, gap between words or character that does.
        """
        for kind in BOUNDARIES[BOUNDARIES.index(recipe.boundary) :]:
            limit = hay.character_after(wanted + _MARGIN_TOKENS // 8)
            while cut := hay.boundaries.last(kind, limit):
                body = self._with(recipe, sample, hay, cut)
                excess = len(body.encoded.ids) - budget
                if excess <= 0:
                    return body
                limit = cut - 1
                if kind in ("word", "character"):  # many, and each is a prompt to build
                    limit = min(limit, hay.character_after(hay.tokens_before(cut) - excess))
        raise UserError(
            f"--lengths {recipe.length}: not one character of {self.haystack.id} fits: give a "
            "larger length"
        )

    def _fit_exactly(
        self, recipe: PromptSpec, sample: Sample, hay: Slice, wanted: int, budget: int
    ) -> FilledConversation:
        """Cut anywhere so that not one token is left over.

        Where characters take several tokens (Chinese under an English vocabulary) no cut may hit
        the count; another first character shifts all counts, so a few of those are tried.
        """
        for skipped in range(_EXACT_STARTS):
            rest = hay.without(skipped)
            aim, tried = wanted, set[int]()
            while (cut := rest.character_after(aim)) not in tried and cut:
                tried.add(cut)
                body = self._with(recipe, sample, rest, cut)
                missing = budget - len(body.encoded.ids)
                if missing == 0:
                    return body._replace(start=skipped)
                aim += missing
        raise UserError(
            f"--exact: no cut of {self.haystack.id} gives exactly {recipe.length} tokens: "
            "leave --exact out"
        )

    def _fit_units(
        self, recipe: PromptSpec, sample: Sample, budget: int, all_there_is: bool
    ) -> FilledConversation:
        """As many units of the task's own text as fit: one more would not."""
        fill = sample.fill
        assert fill is not None
        if recipe.exact:
            raise UserError(
                f"--exact: {recipe.task} is made of whole words and lines: leave --exact out"
            )

        def of(units: int) -> FilledConversation:
            return self._encode(recipe, sample, fill(units, True))

        low, best = sample.fewest, of(sample.fewest)
        low_size = least = len(best.encoded.ids)
        if least > budget:
            raise UserError(
                f"--lengths {recipe.length}: the shortest prompt of {recipe.task} takes "
                f"{least + recipe.answer_tokens} tokens: give a larger length"
            )
        high: int | None = None
        lacking: int | None = None  # the fewest units that the task does not have
        units, rate = low + _PROBE_UNITS, 0.0
        while high is None or high - low > 1:
            try:
                body = of(units)
            except TooFewError:
                high = lacking = units
                units = (low + high) // 2
                continue
            size = len(body.encoded.ids)
            if size <= least:
                return best  # without its evidence such a task has no text at all
            rate = max((size - least) / (units - sample.fewest), 1e-3)
            if size <= budget:
                low, low_size, best = units, size, body
            else:
                high = units
            units = low + max(1, int((budget - low_size) / rate))
            if high is not None:
                units = min(units, high - 1)
        if high == lacking and not all_there_is:
            raise UserError(
                f"--qa {self.haystack.id}: it has too few documents for {recipe.length} "
                "tokens: add some, lower --lengths, or pass --allow-repeat"
            )
        return best


def _measure(fitted: FilledConversation, sample: Sample, budget: int) -> Prompt:
    """Find statements and question in the tokens, and check that answers stand in them alone."""
    conversation, encoded = fitted.conversation, fitted.encoded
    user = conversation.user
    for secret in sample.secrets:
        hidden = sum(user[span.start : span.end].count(secret) for span in fitted.spans)
        elsewhere = user.count(secret) - hidden
        if not hidden or elsewhere or secret in conversation.answer_prefix:
            raise AssertionError(f"the value {secret} is not in its needle alone")
    starts = [start for start, _ in encoded.user_offsets]
    ends = [end for _, end in encoded.user_offsets]

    def token_at(character: int) -> int:
        """The first token that reaches past the character."""
        return bisect.bisect_right(ends, character)

    def tokens_of(span: Span) -> tuple[int, int]:
        return token_at(span.start), bisect.bisect_left(starts, span.end)

    def in_prompt(first: int, last: int) -> tuple[int, int]:
        return encoded.user_start + first, encoded.user_start + last

    question_start = len(user) - len(sample.question)
    spans = [(span, *tokens_of(span)) for span in fitted.spans]
    evidence = [in_prompt(first, last) for span, first, last in spans if span.evidence]
    depth = needle_span = None
    if evidence:
        needle_span = (evidence[0][0], evidence[-1][1])
    for asked, first, last in spans:
        if asked.asked:
            needle_span = in_prompt(first, last)
            body_first = token_at(len(sample.introduction) + len(sample.before))
            body_last = token_at(question_start - len(sample.after) - 1)
            statements = sum(end - start for _, start, end in spans)
            before = sum(end - start for _, start, end in spans if start < first)
            hay_tokens = body_last + 1 - body_first - statements
            share = 100.0 * (first - body_first - before) / max(hay_tokens, 1)
            depth = round(min(max(share, 0.0), 100.0), 3)
    return Prompt(
        ids=encoded.ids,
        conversation=conversation,
        sample=sample,
        slack=budget - len(encoded.ids),
        depth_actual=depth,
        needle_span=needle_span,
        evidence_spans=evidence,
        question_start=encoded.user_start + token_at(question_start),
        haystack_offset=fitted.start,
    )


def _place(hay: Slice, cut: int, depth: float, kind: Boundary) -> int:
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
    for candidates in hay.boundaries.near(hay.character_after(round(target)), cut, kind):
        for place in candidates:
            distance = abs(hay.tokens_before(place) - target)
            if distance < best_distance:
                best, best_distance = place, distance
        if best_distance <= DEPTH_TOLERANCE_TOKENS:
            break
    return best
