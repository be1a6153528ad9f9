"""lm-evaluation-harness on a longctx-extended model: the model name `longctx`.

    python -m longctx.models.lm_eval run --model longctx \\
        --model_args pretrained=DIR,method=yarn+dca,max_length=131072 --tasks …

`python -m longctx.models.lm_eval` is lm_eval's own command with one model more; in Python,
importing this module registers it. Arguments beside those of lm_eval's `hf`: method, chunk_size,
local_size, original_length, factor, cap, kernel, request_length, as of `longctx.attention.extend`.
Needs the extra `[lm-eval]`. Knows no task.
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from longctx.attention import METHODS, extend

_SCHEME = (
    *("chunk_size", "local_size", "original_length", "factor", "cap", "kernel"),
    "request_length",
)


@register_model("longctx")
class LongctxLM(HFLM):
    """`hf` with a position scheme.

    Args:
        method: as of `longctx.attention.extend`; there is no default, so that no figure goes
            under a method that nobody asked for.
        max_length: tokens; what is longer lm_eval cuts. With a method that goes beyond the trained
            window it must be said, because lm_eval would take the window from the config.
        request_length: fixes YaRN's temperature and its factor; by default `max_length` does,
            as for the longest length of a needle run.

    Raises:
        ValueError: a missing or unknown method, a missing max_length, arguments that do not fit
            the model.
    """

    def __init__(self, pretrained: Any, method: str | None = None, **arguments: Any) -> None:
        if method not in METHODS:
            raise ValueError(f"method={method}: use one of {', '.join(METHODS)}")
        scheme = {name: arguments.pop(name) for name in _SCHEME if name in arguments}
        max_length = arguments.get("max_length")
        if method != "none" and max_length is None:
            raise ValueError(
                f"method={method}: say max_length=TOKENS: lm_eval would cut every text to the "
                "window in the model's config"
            )
        super().__init__(pretrained, **arguments)
        if max_length is not None:
            scheme.setdefault("request_length", int(max_length))
        self.longctx = extend(self.model, method, **scheme)

    def get_model_info(self) -> dict[str, Any]:
        """What results.json keeps: lm_eval's own, and the scheme."""
        info: dict[str, Any] = super().get_model_info()
        return {**info, "longctx": self.longctx.scheme.to_dict()}


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
