"""From logits to tokens: one batch, each row by its own rules and its own random numbers.

What a row draws depends on its logits, its settings, its seed and how many tokens it has drawn,
never on its neighbours nor on how often a step is repeated. Knows no model and no text.

    biases, banned ids, grammar    on the row's own logits
    penalties                      on the candidates alone where they only lower, else on all
    temperature, filters           on the candidates (`candidates.py`)
    random numbers                 by seed, position and token id (`noise.py`)

On a CPU rows that need no probabilities of all tokens are drawn in one call of the C library where
there is one (`drawing.py`), and come out the same.

Shape legend: R rows, V vocabulary, B blocks of it, K candidates.
"""

from __future__ import annotations

import copy
import math
import secrets
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from longctx.attention.upload import upload
from longctx.engine import arrays, candidates, drawing, noise
from longctx.engine.arrays import Array
from longctx.engine.constraint import Constraint
from longctx.engine.errors import NonFiniteLogitsError
from longctx.engine.penalties import Penalties, penalise
from longctx.engine.request import Sampling, TokenLogprob

# Stand for a token where there is none: what is read back tells all in one transfer.
_NO_TOKEN, _MORE, _REST = drawing.NOT_FINITE, drawing.LEFT, -3
# Candidates that the library asks for at first: beside top_k as many again, as penalties may lower
# some below others, but no more than this; so many where top_k does not say.
_SPARE = 64


class Drawn(NamedTuple):
    token: int
    logprob: TokenLogprob | None


class RowSampler:
    """One request's settings, penalties and random numbers.

    Args:
        prompt: for the repetition penalty.
        top_logprobs: None reports nothing, n >= 0 the drawn token and the n likeliest.
        banned: token ids that are not drawn before `banned_for` others were.

    Attributes:
        penalties: None where there are none.
        late: penalties are put on the candidates; before, on the whole row.
        rule: temperature and filters.
        sums: whether they need the probabilities of all tokens.
        searches: whether the largest logit is not the answer.
        settings: as `drawing.packed` takes them.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int] = (),
        *,
        top_logprobs: int | None = None,
        constraint: Constraint | None = None,
        banned: Iterable[int] = (),
        banned_for: int = 0,
    ) -> None:
        self.sampling = sampling
        self._banned = torch.tensor(sorted(banned) if banned_for else [], dtype=torch.int64)
        self._banned_for = banned_for if len(self._banned) else 0
        ids, biases = zip(*sampling.logit_bias, strict=True) if sampling.logit_bias else ((), ())
        self._bias_ids = torch.tensor(ids, dtype=torch.int64)
        self._biases = torch.tensor(biases, dtype=torch.float32)
        self.top_logprobs = top_logprobs
        self.constraint = constraint
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        self._start = noise.start_of(seed)
        self._drawn = 0
        self.penalties = Penalties(sampling, prompt) if sampling.penalises else None
        self.late = (
            self.penalties is not None
            and self.penalties.lowers
            and not candidates.needs_sum(sampling)
        )
        self.rule = candidates.RowFilter.of(sampling)
        self.sums = candidates.needs_sum(sampling)
        self.searches = sampling.temperature > 0 or self.late
        self.settings = self._settings()

    @property
    def adjusts(self) -> bool:
        """Whether `adjust` changes anything."""
        return (
            self.constraint is not None
            or (self.penalties is not None and not self.late)
            or self._banned_for > 0
            or bool(self.sampling.logit_bias)
        )

    @property
    def key(self) -> int:
        """What the next token's random numbers follow from."""
        return noise.key_of(self._start, self._drawn)

    def _settings(self) -> tuple[int, float, float, float, float, float]:
        rule, penalties = self.rule, self.penalties
        asked = int(rule.top_k) if rule.top_k < math.inf else _SPARE
        return (
            max(asked + min(asked, _SPARE), _SPARE // 4) if self.searches else 0,
            penalties.repetition - 1 if penalties and self.late else 0.0,
            *(rule.temperature, rule.top_k, rule.top_p, rule.min_p),
        )

    def packed(self, logits: int, vocabulary: int) -> bytes:
        """For the library.

        Args:
            logits: address of the row's first.
        """
        late = self.penalties if self.late else None
        seen, cost = late.addresses(vocabulary) if late else (0, 0)
        return drawing.packed(logits, seen, cost, self._start, self._drawn, self.settings)

    @property
    def foreseeable(self) -> bool:
        """Whether a later token's rules are known before the tokens up to it are drawn."""
        return self.penalties is None and self.constraint is None and not self._banned_for

    def ahead(self, by: int) -> RowSampler:
        """What draws the token that comes so many later; itself for 0."""
        if not by:
            return self
        assert self.foreseeable
        other = copy.copy(self)
        other._drawn += by
        return other

    def note(self, token: int) -> None:
        """A token was drawn."""
        self._drawn += 1
        self._banned_for -= self._banned_for > 0
        if self.penalties is not None:
            self.penalties.note(token)

    def rest(self) -> None:
        """Hold no memory until the next draw."""
        if self.penalties is not None:
            self.penalties.drop()

    def adjust(self, logits_V: torch.Tensor, *, penalties: bool = True) -> None:
        """Biases, penalties and grammar, in place."""
        device = logits_V.device
        if self.sampling.logit_bias:
            logits_V.index_add_(0, upload(self._bias_ids, device), upload(self._biases, device))
        if self._banned_for:
            logits_V.index_fill_(0, upload(self._banned, device), -torch.inf)
        if penalties and self.penalties is not None:
            self.penalties.put_on(logits_V)
        if self.constraint is not None:
            self.constraint.mask(logits_V)


def draw(logits_RV: torch.Tensor, samplers: Sequence[RowSampler]) -> list[Drawn | Exception]:
    """The next token of every row; an exception where a row's own rules failed, or
    where its logits are not finite.

    Args:
        logits_RV: float32, with -inf where the tokenizer has no token. They stay as they are.
    """
    failures: dict[int, Exception] = {}
    given_RV, finite_R = logits_RV, None
    if any(sampler.adjusts for sampler in samplers):
        finite_R = arrays.finite(arrays.of(candidates.block_maxima(logits_RV)))
        logits_RV = logits_RV.clone()
        for row, sampler in enumerate(samplers):
            if sampler.adjusts:
                try:
                    sampler.adjust(logits_RV[row], penalties=not sampler.late)
                except Exception as error:
                    failures[row] = error
    tokens = _tokens(logits_RV, finite_R, samplers, failures)
    broken = (row for row, token in enumerate(tokens) if token == _NO_TOKEN)
    failures = {row: NonFiniteLogitsError() for row in broken} | failures
    wanted = [
        row
        for row, sampler in enumerate(samplers)
        if sampler.top_logprobs is not None and row not in failures
    ]
    reports = _reports(given_RV, wanted, tokens, samplers) if wanted else {}
    return [failures.get(row) or Drawn(token, reports.get(row)) for row, token in enumerate(tokens)]


def _tokens(
    logits_RV: torch.Tensor,
    finite_R: Array | None,
    samplers: Sequence[RowSampler],
    failed: Collection[int],
) -> list[int]:
    """Tokens of all rows; any for those that failed.

    Args:
        finite_R: None where these logits tell it.
    """
    tokens = [_NO_TOKEN if row in failed else _MORE for row in range(len(samplers))]
    library = _library(logits_RV)
    if library is not None:
        _draw_quickly(library, logits_RV, finite_R, samplers, tokens)
    left = [row for row, token in enumerate(tokens) if token == _MORE]
    if left:
        finite_R = None if finite_R is None else arrays.picked(finite_R, left)
        mine = [samplers[row] for row in left]
        found = _searched(arrays.picked(logits_RV, left), finite_R, mine)
        for row, token in zip(left, found, strict=True):
            tokens[row] = token
    return tokens


def _library(logits_RV: torch.Tensor) -> drawing.Drawer | None:
    """Of C, where it can read these logits."""
    if not arrays.hosted(logits_RV.device):
        return None
    if logits_RV.dtype != torch.float32 or logits_RV.stride(1) != 1:
        return None
    loaded = drawing.load()
    return None if isinstance(loaded, str) else loaded


def _draw_quickly(
    library: drawing.Drawer,
    logits_RV: torch.Tensor,
    finite_R: Array | None,
    samplers: Sequence[RowSampler],
    tokens: list[int],
) -> None:
    """Fill in the tokens that the library finds, of those that are still to be drawn."""
    vocabulary = logits_RV.shape[1]
    first, pitch = logits_RV.data_ptr(), logits_RV.stride(0) * logits_RV.element_size()
    rows, packed = [], []
    for row, sampler in enumerate(samplers):
        if tokens[row] == _MORE and not sampler.sums and sampler.settings[0] <= library.widest:
            rows.append(row)
            packed.append(sampler.packed(first + row * pitch, vocabulary))
    for row, token in zip(rows, library.draw(packed, vocabulary), strict=True):
        if finite_R is not None:
            # What was finite, and is now forbidden altogether, is not broken.
            token = (0 if token == _NO_TOKEN else token) if finite_R[row] else _NO_TOKEN
        tokens[row] = token


def _searched(
    logits_RV: torch.Tensor, finite_R: Array | None, samplers: Sequence[RowSampler]
) -> list[int]:
    """Tokens of all rows: the host waits once, and once more for each time that some row's
    candidates were too few."""
    maxima_RB = candidates.block_maxima(logits_RV)
    if finite_R is None:
        finite_R = arrays.finite(arrays.of(maxima_RB))
    sizes = {
        row: candidates.sizes_for(sampler.sampling, logits_RV.shape[1])
        for row, sampler in enumerate(samplers)
        if sampler.searches
    }
    if len(sizes) < len(samplers):
        tokens_R = candidates.argmax(logits_RV, maxima_RB)
    else:
        tokens_R = arrays.cast(finite_R, "int64")  # of nobody: all are searched for
    pending, rest = list(sizes), list[int]()
    tokens: list[int] = []
    while pending or rest or not tokens:
        jobs: dict[int, list[int]] = {}
        for row in pending:
            jobs.setdefault(sizes[row].pop(0), []).append(row)
        for size, rows in jobs.items():
            mine = [samplers[row] for row in rows]
            found_R = _search(
                arrays.picked(logits_RV, rows), arrays.picked(maxima_RB, rows), mine, size
            )
            tokens_R = arrays.replaced(tokens_R, rows, found_R)
        if rest:
            found_R = _among_the_rest(
                arrays.picked(logits_RV, rest),
                arrays.picked(maxima_RB, rest),
                [samplers[row] for row in rest],
            )
            tokens_R = arrays.replaced(tokens_R, rest, arrays.of(found_R))
        tokens = arrays.library(tokens_R).where(finite_R, tokens_R, _NO_TOKEN).tolist()
        rest = [row for row in pending if tokens[row] == _REST]
        pending = [row for row in pending if tokens[row] == _MORE]
    return tokens


def _search(
    logits_RV: torch.Tensor, maxima_RB: torch.Tensor, samplers: Sequence[RowSampler], size: int
) -> Array:
    """Tokens [R] among the `size` largest logits, or what stands for one."""
    with np.errstate(all="ignore"):  # as torch: rows that are not finite are told by the caller
        found = candidates.top(logits_RV, maxima_RB, size)
        late = [sampler.penalties if sampler.late else None for sampler in samplers]
        values_RK = penalise(found.values_RK, found.ids_RK, late, logits_RV)
        found = candidates.ordered(found._replace(values_RK=values_RK))
        return _drawn(logits_RV, found, samplers)


def _drawn(logits_RV: torch.Tensor, found: candidates.Top, samplers: Sequence[RowSampler]) -> Array:
    """Of the candidates of `ordered`, what `_search` gives."""
    device, vocabulary = logits_RV.device, logits_RV.shape[1]
    xp = arrays.library(found.values_RK)
    rule = candidates.Filters.of([sampler.rule for sampler in samplers], device)
    found = found._replace(bound_R1=candidates.edge(found, rule))
    kept = candidates.keep(found, rule, _others(logits_RV, found, rule, samplers))
    key_R = _keys(samplers, device)
    scores_RK = kept.weights_RK / noise.exponential(key_R, kept.ids_RK)
    best_R1 = scores_RK.argmax(1)[:, None]
    tokens_R = arrays.along(kept.ids_RK, best_R1)[:, 0]
    if kept.rest_R1 is not None:  # all that is no candidate draws as one token behind the last
        last_R1 = xp.full_like(best_R1, vocabulary)
        score_R1 = kept.rest_R1 / noise.exponential(key_R, last_R1)
        beaten_R = (score_R1 > arrays.along(scores_RK, best_R1))[:, 0]
        tokens_R = xp.where(beaten_R, _REST, tokens_R)
    return xp.where(kept.sure_R, tokens_R, _MORE)


def _others(
    logits_RV: torch.Tensor,
    found: candidates.Top,
    rule: candidates.Filters,
    samplers: Sequence[RowSampler],
) -> Array | None:
    """[R, 1] as `keep` takes them: of the rows that need them, or None."""
    summed = [row for row, sampler in enumerate(samplers) if sampler.sums]
    if not summed:
        return None
    given = [arrays.tensor(each) for each in (found.values_RK, found.bound_R1, rule.temperature)]
    found_R1 = candidates.others(*(arrays.picked(each, summed) for each in (logits_RV, *given)))
    none_R1 = arrays.library(rule.temperature).zeros_like(rule.temperature)
    return arrays.replaced(none_R1, summed, arrays.of(found_R1))


def _among_the_rest(
    logits_RV: torch.Tensor, maxima_RB: torch.Tensor, samplers: Sequence[RowSampler]
) -> torch.Tensor:
    """Tokens [R] of those that `_search` did not look at, by their probabilities."""
    device = logits_RV.device
    rule = candidates.Filters.of([sampler.rule for sampler in samplers], device)
    key_R = _keys(samplers, device)
    another_R1 = arrays.library(key_R).full_like(key_R, logits_RV.shape[1] + 1)[:, None]
    share_R1 = noise.uniform(key_R, another_R1)
    return candidates.other(logits_RV, maxima_RB, rule, share_R1)


def _keys(samplers: Sequence[RowSampler], device: torch.device) -> Array:
    return arrays.placed(np.array([sampler.key for sampler in samplers], np.int64), device)


def _reports(
    logits_RV: torch.Tensor, rows: list[int], tokens: list[int], samplers: Sequence[RowSampler]
) -> dict[int, TokenLogprob]:
    """Log-probabilities under the model itself; the host waits once."""
    logprobs_RV = torch.log_softmax(arrays.picked(logits_RV, rows), -1)
    ids_R1 = upload(torch.tensor([[tokens[row]] for row in rows]), logits_RV.device)
    columns = [logprobs_RV.gather(1, ids_R1).double()]
    counts = [samplers[row].top_logprobs or 0 for row in rows]
    count = min(max(counts), logits_RV.shape[1])
    if count:
        size = candidates.sizes_for(Sampling(1.0, top_k=count), logits_RV.shape[1])[0]
        found = candidates.top(logprobs_RV, candidates.block_maxima(logprobs_RV), size)
        listed = candidates.ordered(found)[:2]
        columns += [arrays.tensor(x)[:, :count].double() for x in listed]
    reports = {}
    for row, wanted, (logprob, *top) in zip(
        rows, counts, torch.cat(columns, 1).tolist(), strict=True
    ):
        pairs = zip(map(int, top[count:]), top[:count], strict=True)
        reports[row] = TokenLogprob(tokens[row], logprob, tuple(pairs)[:wanted])
    return reports
