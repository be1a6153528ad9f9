"""lm-evaluation-harness on the engine, under a method of longctx: the model name `longctx`.

    python -m longctx.models.lm_eval run --model longctx \\
        --model_args pretrained=DIR,method=yarn+dca,max_length=131072 --tasks …

`python -m longctx.models.lm_eval` is lm_eval's own command with one model more; in Python,
importing this module registers it. Arguments beside those of lm_eval's `hf`: method, chunk_size,
local_size, original_length, factor, cap, kernel, request_length, as of `longctx.attention.extend`.
Contexts that several answers share are computed once. Needs the extra `[lm-eval]`. Knows no task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from longctx.attention import METHODS, resolve
from longctx.engine import Answer, Engine, EngineRequest, Generation, Sampling

_NUMBERS = ("chunk_size", "local_size", "original_length", "factor", "cap", "request_length")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_AT_ONCE = 64


@register_model("longctx")
class LongctxLM(HFLM):
    """`hf` on the engine, with a position scheme.

    Args:
        method: as of `longctx.attention.extend`; there is no default, so that no figure goes
            under a method that nobody asked for.
        max_length: tokens; what is longer lm_eval cuts. With a method that goes beyond the trained
            window it must be said, because lm_eval would take the window from the config.
        request_length: fixes YaRN's temperature and its factor; by default `max_length` does,
            as for the longest length of a needle run. The temperature is taken at its bucket's
            edge, as everywhere on the engine.

    Raises:
        ValueError: a missing or unknown method, a missing max_length, arguments that do not fit
            the model.
    """

    def __init__(self, pretrained: Any, method: str | None = None, **arguments: Any) -> None:
        if method not in METHODS:
            raise ValueError(f"method={method}: use one of {', '.join(METHODS)}")
        numbers = {name: arguments.pop(name) for name in _NUMBERS if name in arguments}
        kernel = arguments.pop("kernel", "auto")
        max_length = arguments.get("max_length")
        if method != "none" and max_length is None:
            raise ValueError(
                f"method={method}: say max_length=TOKENS: lm_eval would cut every text to the "
                "window in the model's config"
            )
        super().__init__(pretrained, **arguments)
        if max_length is not None:
            numbers.setdefault("request_length", int(max_length))
        scheme = resolve(self.model.config, method, **numbers)
        self.request_length: int | None = numbers.get("request_length")
        # A scored text has one token more than lm_eval's own input.
        self.longctx = Engine(
            self.model, self.tokenizer, scheme, kernel=kernel, max_context=self.max_length + 1
        )

    def get_model_info(self) -> dict[str, Any]:
        """What results.json keeps: lm_eval's own, and the scheme."""
        info: dict[str, Any] = super().get_model_info()
        return {**info, "longctx": self.longctx.scheme.to_dict()}

    def _detect_batch_size(self, *_: Any, **__: Any) -> int:
        return _AT_ONCE

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        asked = []
        for _, context, continuation in requests:
            ids = [*context, *continuation][-(self.max_length + 1) :]
            asked.append(
                EngineRequest(
                    ids,
                    max_new_tokens=0,
                    prompt_logprobs=True,
                    prompt_logprobs_from=len(ids) - len(continuation),
                    request_length=self.request_length,
                )
            )
        found: list[tuple[float, bool]] = []
        bar = tqdm(total=len(asked), disable=disable_tqdm, desc="Running loglikelihood requests")
        with bar:
            for (key, _, continuation), answer in zip(requests, self._answers(asked), strict=True):
                assert answer.prompt_logprobs is not None
                whole = answer.prompt_likeliest == tuple(continuation)
                found.append((sum(answer.prompt_logprobs), whole))
                if key is not None:
                    self.cache_hook.add_partial("loglikelihood", key, found[-1])
                bar.update(1)
        return found

    def _model_generate(
        self,
        context: torch.Tensor,
        max_length: int,
        stop: Sequence[str],
        attention_mask: torch.Tensor | None = None,
        do_sample: bool | None = None,
        **sampling: Any,
    ) -> torch.Tensor:
        """Rows of context and answer, as transformers' generate gives them.

        Raises:
            ValueError: a setting of generation that the engine does not have.
        """
        unknown = set(sampling) - set(_SAMPLING)
        if unknown:
            raise ValueError(
                f"generation with {', '.join(sorted(unknown))}: not in the engine: use "
                f"{', '.join(_SAMPLING)}"
            )
        if do_sample is False:
            sampling["temperature"] = 0.0
        rows = [
            row if attention_mask is None else row[mask.bool()]
            for row, mask in zip(
                context, context if attention_mask is None else attention_mask, strict=True
            )
        ]
        answers = self._answers(
            [
                EngineRequest(
                    row.tolist(),
                    max_new_tokens=max_length - context.shape[1],
                    sampling=Sampling(**sampling),
                    stop=tuple(text for text in stop if text),
                    request_length=self.request_length,
                )
                for row in rows
            ]
        )
        told = [torch.tensor(answer.token_ids, device=context.device) for answer in answers]
        room = max(len(ids) for ids in told)
        filler = self.tokenizer.pad_token_id
        out = context.new_full((len(told), context.shape[1] + room), filler)
        out[:, : context.shape[1]] = context
        for row, ids in zip(out, told, strict=True):
            row[context.shape[1] : context.shape[1] + len(ids)] = ids
        return out

    def _answers(self, requests: Sequence[EngineRequest]) -> Iterator[Answer]:
        """In the order of the requests; some ahead of what is read, to share and to decode."""
        handles: list[Generation] = []
        for at in range(len(requests)):
            while len(handles) < min(at + _AT_ONCE, len(requests)):
                handles.append(self.longctx.submit(requests[len(handles)]))
            while not handles[at].done:
                self.longctx.step()
            yield handles[at].result(timeout=0)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
