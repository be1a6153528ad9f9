"""The scheme of a vLLM configuration: what was asked, settled once, read back in every process.

Asked is `--additional-config '{"longctx": {"method": "yarn+dca", ...}}'`, or a checkpoint's own
`dual_chunk_attention_config`. Settled, all numbers stand in that key of the model's config, from
which vLLM's Qwen classes build their chunked rotary, and method and cap in the additional config;
both travel to the workers, and count in the hash of compiled graphs. Imports nothing of vLLM.
"""

from __future__ import annotations

import difflib
import functools
from types import SimpleNamespace
from typing import Any

from longctx.attention import Scheme, default_method, resolve
from longctx.attention.rope import temperature_bucket

SECTION = "longctx"
KEY = "dual_chunk_attention_config"
# Those without a factor: vLLM's rotary is built from base frequencies alone.
PLUGIN_METHODS = ("none", "dca", "yarn+dca")
KNOWN = ("method", "chunk_size", "local_size", "original_length", "cap")


def asked(vllm_config: Any) -> dict[str, Any] | None:
    """The settings given; {} where only the checkpoint asks; None where nobody does.

    Raises:
        ValueError: unknown names, or another kind of value.
    """
    additional = vllm_config.additional_config
    given = additional.get(SECTION) if isinstance(additional, dict) else None
    if given is None:
        config = _text_config(vllm_config)
        return {} if config is not None and getattr(config, KEY, None) else None
    if not isinstance(given, dict):
        raise ValueError(f"additional_config.{SECTION}={given!r} must be an object")
    for name in given:
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            raise ValueError(
                f"additional_config.{SECTION} has the unknown key {name!r}: "
                + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KNOWN)}")
            )
    return given


def settle(vllm_config: Any) -> Scheme | None:
    """Settle the scheme and write it where the workers read it; None: vLLM's own attention.

    Raises:
        ValueError: settings that contradict each other or the model, as `resolve` says.
    """
    given = asked(vllm_config)
    if given is None:
        return None
    config = _text_config(vllm_config)
    method = given.get("method") or default_method(config)
    if method not in PLUGIN_METHODS:
        raise ValueError(
            f"method={method!r} cannot run in vLLM: choose one of {', '.join(PLUGIN_METHODS)}, or "
            "serve it without vLLM"
        )
    numbers = {name: given[name] for name in KNOWN[1:] if given.get(name) is not None}
    _check_rotary(config, method)
    scheme = resolve(config, method, **numbers)
    if method == "none":
        if getattr(config, KEY, None):
            delattr(config, KEY)
        vllm_config.additional_config.pop(SECTION)
        return None
    setattr(
        config,
        KEY,
        {
            "chunk_size": scheme.chunk_size,
            "local_size": scheme.local_size,
            "original_max_position_embeddings": scheme.original_length,
        },
    )
    if not isinstance(vllm_config.additional_config, dict):
        raise ValueError("additional_config must be an object where Dual Chunk Attention runs")
    vllm_config.additional_config[SECTION] = {"method": method, "cap": scheme.cap}
    return scheme


def scheme_of(vllm_config: Any) -> Scheme | None:
    """The scheme that `settle` has left; None: vLLM's own attention.

    Raises:
        ValueError: settings that nobody has settled: the model's class never came to the hook.
    """
    given = asked(vllm_config)
    if given is None or given.get("method") == "none":
        return None
    config = _text_config(vllm_config)
    key = getattr(config, KEY, None) or {}
    if set(given) != {"method", "cap"} or not key:
        raise ValueError(
            f"Dual Chunk Attention cannot run in {config.model_type}'s class of vLLM: Qwen2, "
            "Qwen2-MoE, Qwen3 and Qwen3-MoE can; serve others without vLLM"
        )
    numbers = (key["chunk_size"], key["local_size"], key["original_max_position_embeddings"])
    return _scheme(config.model_type, given["method"], given["cap"], *numbers)


@functools.cache
def _scheme(
    model_type: str, method: str, cap: str, chunk_size: int, local_size: int, original_length: int
) -> Scheme:
    key = {
        "chunk_size": chunk_size,
        "local_size": local_size,
        "original_max_position_embeddings": original_length,
    }
    view = SimpleNamespace(model_type=model_type, dual_chunk_attention_config=key)
    return resolve(view, method, cap=cap)


def bucket_of(scheme: Scheme, prompt_tokens: int) -> int:
    """Edge of the temperature bucket, in tokens; 0 where prompts of all lengths are alike."""
    if not scheme.uses_request_length:
        return 0
    return temperature_bucket(prompt_tokens, scheme.original_length)


@functools.lru_cache(maxsize=4096)
def logit_scale(scheme: Scheme, prompt_tokens: int) -> float:
    """m^2 of a prompt, taken at its bucket's edge."""
    edge = bucket_of(scheme, prompt_tokens)
    return scheme.logit_scale(edge) if edge else 1.0


def salt_of(scheme: Scheme, given: str | None, prompt_tokens: int) -> str:
    """What prefixes are kept apart by: the client's own salt, the scheme, the bucket.

    Keys and values of deeper layers depend on all three, and a store of prefixes may be shared
    between servers.
    """
    numbers = f"{scheme.chunk_size}-{scheme.local_size}-{scheme.cap}-{scheme.original_length}"
    own = f"longctx:{scheme.method}:{numbers}:{bucket_of(scheme, prompt_tokens)}"
    return own if given is None else f"{given}|{own}"


def theta_of(vllm_config: Any) -> float:
    """The rotary's base, as vLLM's classes take it from the config."""
    return float(_text_config(vllm_config).rope_parameters["rope_theta"])


def _check_rotary(config: Any, method: str) -> None:
    """vLLM's chunked rotary takes a base and nothing else."""
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if method != "none" and kind in ("linear", "llama3"):
        raise ValueError(
            f"config.rope_parameters has rope_type {kind!r}: {method!r} in vLLM needs 'default'; "
            "serve this model without vLLM"
        )
    if method != "none" and rope.get("rope_theta") is None:
        raise ValueError(
            "config.rope_parameters has no rope_theta, and vLLM would take a base of its own: an "
            "override of a dictionary replaces it whole, so give rope_theta too"
        )


def _text_config(vllm_config: Any) -> Any:
    model = vllm_config.model_config
    return None if model is None else model.hf_text_config
