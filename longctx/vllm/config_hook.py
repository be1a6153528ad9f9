"""vLLM's own hook of a model class's configuration: every check, and the settled scheme."""

from __future__ import annotations

from typing import Any

from vllm.logger import init_logger
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.platforms import current_platform
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from longctx.attention import Scheme
from longctx.vllm.settings import asked, settle

# Whose attention builds the rotary that is replaced, and passes on what it was built with.
CHUNKED = ("Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM")
# Those one might try: they would run without chunks.
UNCHUNKED = (
    *("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "PhiForCausalLM"),
    *("Phi3ForCausalLM", "GemmaForCausalLM", "Gemma2ForCausalLM", "OlmoForCausalLM"),
)
# vLLM hands prompts' lengths to an attention backend where a window over answers is set. No answer
# is this long.
NO_WINDOW = 2**31 - 1

_log = init_logger("vllm.longctx")


class DualChunkConfig(VerifyAndUpdateConfig):
    """Of the classes that can: nothing happens unless somebody asked for chunks."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        scheme = settle(vllm_config)
        if scheme is None:
            return
        check(vllm_config, scheme)
        vllm_config.model_config.model_arch_config.rswa_window = NO_WINDOW
        if current_platform.is_cuda():
            vllm_config.attention_config.backend = AttentionBackendEnum.CUSTOM
        _log.info("longctx: %s", scheme)


class RefusingConfig(VerifyAndUpdateConfig):
    """Of the classes that cannot: whoever asks is told."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        given = asked(vllm_config)
        if given is not None and given.get("method") != "none":
            model = vllm_config.model_config
            raise ValueError(
                f"longctx cannot give Dual Chunk Attention to {model.architecture} in vLLM: "
                f"{', '.join(CHUNKED)} can; serve this model without vLLM"
            )


def check(vllm_config: Any, scheme: Scheme) -> None:
    """Refuse what the attention does not compute.

    Raises:
        ValueError: one line, which names the option.
    """
    parallel, cache = vllm_config.parallel_config, vllm_config.cache_config
    model = vllm_config.model_config
    dtype = str(model.dtype).removeprefix("torch.")
    refused = (
        (vllm_config.speculative_config is not None, "speculative decoding"),
        (parallel.decode_context_parallel_size > 1, "--decode-context-parallel-size above 1"),
        (parallel.prefill_context_parallel_size > 1, "--prefill-context-parallel-size above 1"),
        (cache.cache_dtype not in ("auto", dtype), f"--kv-cache-dtype {cache.cache_dtype}"),
        (model.runner_type != "generate", f"--runner {model.runner_type}"),
        (not getattr(model.hf_text_config, "is_causal", True), "is_causal=false in the config"),
    )
    for wrong, what in refused:
        if wrong:
            raise ValueError(
                f"longctx: method {scheme.method!r} does not run with {what}: leave that out, or "
                "run with method 'none'"
            )


def install() -> None:
    """Put the hooks where vLLM looks for them (idempotent).

    Raises:
        RuntimeError: vLLM has one of its own for a class that is ours to check.
    """
    for names, hook in ((CHUNKED, DualChunkConfig), (UNCHUNKED, RefusingConfig)):
        for name in names:
            there = MODELS_CONFIG_MAP.get(name)
            if there is None:
                MODELS_CONFIG_MAP[name] = hook
            elif there is not hook and names is CHUNKED:
                raise RuntimeError(
                    f"longctx: this vLLM checks {name} by a hook of its own ({there.__name__}), "
                    "which would be lost: use another release of either"
                )
