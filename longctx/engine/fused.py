"""Modules of a model that compute in layer.c while an engine owns it: RMSNorms and attention.

A norm is six operations of torch and a rotation ten, each of which takes longer to call than to
compute where a step has few rows. A module is known by what it does,
never by its name alone: a copy with stand-ins for weights and products is asked once, and must give
the bits of the formula that layer.c computes. Others keep their own code. undo() puts all back.

A fused module serves every step, prompts and answers alike, so that a token's numbers do not depend
on the step it comes in. Outside of inference mode, under torch.compile, and for tensors that
layer.c does not know, a module runs its own code. Hooks are called as ever. An MLP is not here: its
activation and its product are two quick operations.

Shape legend: R rows, W width, T packed tokens of a step, H heads, D head dimension.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from longctx.engine.batch_attention import batch_attention
from longctx.engine.layer_ops import TYPES, LayerOps, load

_PROBE_NAME = "longctx_fused_probe"
_TOKENS = 3
_PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
# What an attention may hand to the function behind it beside queries, keys, values and mask.
_HANDED = {"scaling", "dropout", "sliding_window"}

Forward = Callable[..., Any]


class FusedModules:
    """Fuses what it knows of a model on a CPU; its length is the number of those modules.

    Args:
        model: None: nothing is fused.
    """

    def __init__(self, model: Any | None) -> None:
        self._fused: list[nn.Module] = []
        ops = load()
        if model is None or isinstance(ops, str) or model.dtype not in TYPES:
            return
        try:
            for module in model.modules():
                forward = _forward(ops, module, model.dtype)
                if forward is not None:
                    self._fused.append(module)
                    module.__dict__["forward"] = forward  # as packed.py does it
        except BaseException:
            self.undo()
            raise

    def __len__(self) -> int:
        return len(self._fused)

    def undo(self) -> None:
        """The modules' own code again."""
        while self._fused:
            self._fused.pop().__dict__.pop("forward", None)  # somebody may have taken it off


def _forward(ops: LayerOps, module: nn.Module, dtype: torch.dtype) -> Forward | None:
    """A module's forward in layer.c; None for a module that is not known."""
    make, fits = _KINDS.get(_kind(module), (None, None))
    if make is None or fits is None or "forward" in vars(module) or module._buffers:
        return None
    if any(parameter.device.type != "cpu" for parameter in module.parameters()):
        return None
    try:
        with torch.no_grad():
            known = fits(module, dtype)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError):
        return None
    # A bound method, which a deep copy of the module binds to the copy and its weights.
    return types.MethodType(make(ops, module), module) if known else None


def _kind(module: nn.Module) -> str:
    inside = module._modules.keys()
    if inside == _PROJECTIONS or inside == _PROJECTIONS | _HEAD_NORMS:
        return "attention"
    if not inside and module._parameters.keys() == {"weight"}:
        return "norm" if type(module).__name__.endswith("RMSNorm") else ""
    return ""


def _mine(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether layer.c may be given these two now; asked for every module of a step."""
    return (
        torch.is_inference_mode_enabled()
        and not torch.compiler.is_compiling()
        and x.dtype == y.dtype
        and x.dtype in TYPES
        and x.is_cpu
        and y.is_cpu
    )


# -- norms ----------------------------------------------------------------------------------------


def _epsilon(norm: Any) -> float:
    return float(norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps)


def _is_norm(norm: Any, dtype: torch.dtype) -> bool:
    """weight * (x / sqrt(mean of x^2 + epsilon)), rounded in between, whatever the weight."""
    weight_W, epsilon = norm.weight, _epsilon(norm)
    if weight_W.ndim != 1 or weight_W.dtype != dtype:
        return False
    weight_W, x_RW = _random(weight_W.shape, dtype), _random((3, len(weight_W)), dtype)
    x_RW *= torch.tensor([[1.0], [epsilon**0.5], [100.0]])
    wide_RW = x_RW.float()
    scale_R1 = torch.rsqrt(wide_RW.pow(2).mean(-1, keepdim=True) + epsilon)
    expected_RW = weight_W * (wide_RW * scale_R1).to(dtype)
    asked = _copy(norm, parameters={"weight": weight_W})
    return _same(type(norm).forward(asked, x_RW), expected_RW)


def _norm(ops: LayerOps, norm: nn.Module) -> Forward:
    epsilon, plain = _epsilon(norm), type(norm).forward

    def forward(self: nn.Module, hidden_states: torch.Tensor) -> Any:
        weight_W: Any = self._parameters["weight"]
        if (
            not _mine(hidden_states, weight_W)
            or hidden_states.size(-1) != weight_W.size(0)
            or not weight_W.is_contiguous()
        ):
            return plain(self, hidden_states)
        return ops.rms_norm(hidden_states, weight_W, epsilon)

    return forward


# -- attention ------------------------------------------------------------------------------------


def _is_attention(attention: Any, dtype: torch.dtype) -> bool:
    """Projections, norms of heads where there are some, rotation of halves, the interface."""
    dim = attention.head_dim
    widths = [getattr(attention, name).out_features for name in ("q_proj", "k_proj", "v_proj")]
    if attention._parameters or dim % 2 or any(width % dim for width in widths):
        return False
    x_1TW = _random((1, _TOKENS, 5), dtype)
    given = [_Given(_random((1, _TOKENS, width), dtype, seed)) for seed, width in enumerate(widths)]
    stand_ins = dict(zip(("q_proj", "k_proj", "v_proj"), given, strict=True))
    norms = {name: attention._modules[name] for name in _HEAD_NORMS & attention._modules.keys()}
    asked = _copy(attention, modules={**stand_ins, "o_proj": nn.Identity(), **norms})
    AttentionInterface.register(_PROBE_NAME, _capture)
    asked.config = copy.copy(attention.config)
    asked.config._attn_implementation = _PROBE_NAME
    half_1TF = _random((1, _TOKENS, dim // 2), dtype)
    cos_1TD, sin_1TD = half_1TF.cos().repeat(1, 1, 2), half_1TF.sin().repeat(1, 1, 2)
    seen: list[Any] = []
    answer_1THD = _random((1, _TOKENS, widths[0] // dim, dim), dtype, 7)
    out = type(attention).forward(
        asked,
        hidden_states=x_1TW,
        position_embeddings=(cos_1TD, sin_1TD),
        attention_mask=None,
        longctx_seen=seen,
        longctx_answer=answer_1THD,
    )
    q_1THD, k_1THD, v_1THD = (each.given.view(1, _TOKENS, -1, dim) for each in given)
    if norms:
        q_1THD, k_1THD = norms["q_norm"](q_1THD), norms["k_norm"](k_1THD)
    expected = [_turned(x, cos_1TD, sin_1TD) for x in (q_1THD, k_1THD)]
    handed = seen[3]
    return (
        all(each.seen is x_1TW for each in given)
        and all(map(_same, seen[:3], [*expected, v_1THD.transpose(1, 2)]))
        and handed.keys() <= _HANDED
        and handed.get("scaling") == attention.scaling
        and handed.get("sliding_window") is None
        and _same(out[0], answer_1THD.view(1, _TOKENS, -1))
    )


def _alike(*tensors: torch.Tensor) -> bool:
    """Whether layer.c reads these together: an adapter or a hook may give another dtype."""
    q, k, cos, sin = tensors
    return (
        q.dtype == k.dtype == cos.dtype == sin.dtype
        and q.is_cpu
        and k.is_cpu
        and cos.is_contiguous()
        and sin.is_contiguous()
    )


def _turned(x_1THD: torch.Tensor, cos_1TD: torch.Tensor, sin_1TD: torch.Tensor) -> torch.Tensor:
    first, second = x_1THD.transpose(1, 2).chunk(2, -1)
    halves_1HTD = torch.cat((-second, first), -1)
    return (x_1THD.transpose(1, 2) * cos_1TD[:, None]) + (halves_1HTD * sin_1TD[:, None])


def _capture(
    module: Any, query: Any, key: Any, value: Any, mask: Any, *, longctx_seen: Any, **more: Any
) -> Any:
    answer = more.pop("longctx_answer")
    if mask is not None:
        raise ValueError("a mask of its own")
    longctx_seen.extend((query, key, value, more))
    return answer, None


def _attention(ops: LayerOps, attention: nn.Module) -> Forward:
    known: Any = attention
    plain, dim, scaling = type(attention).forward, known.head_dim, known.scaling
    norms = "q_norm" in attention._modules

    def forward(
        self: nn.Module,
        hidden_states: torch.Tensor,
        position_embeddings: Any = None,
        attention_mask: torch.Tensor | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> Any:
        given = (position_embeddings, attention_mask)
        if (
            kwargs.get("longctx_batch") is None
            or cache is not None
            or kwargs.get("past_key_values") is not None
            or not _mine(hidden_states, position_embeddings[0])
        ):
            more = {} if cache is None else {"cache": cache}
            return plain(self, hidden_states, *given, **more, **kwargs)
        modules: Any = self._modules
        q, k = modules["q_proj"](hidden_states), modules["k_proj"](hidden_states)
        v_1TW = modules["v_proj"](hidden_states)
        shape = (1, v_1TW.shape[1], -1, dim)
        if norms:
            q, k = modules["q_norm"](q.view(shape)), modules["k_norm"](k.view(shape))
        if _alike(q, k, *position_embeddings):
            query, key = ops.rotate(q, k, *position_embeddings)
        else:
            query, key = (_turned(x.view(shape), *position_embeddings) for x in (q, k))
        value = v_1TW.view(shape).transpose(1, 2)
        out_1THD, _ = batch_attention(
            self, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return modules["o_proj"](out_1THD.view(1, shape[1], -1)), None

    return forward


_KINDS: dict[str, tuple[Callable[[LayerOps, nn.Module], Forward], Callable[..., bool]]] = {
    "norm": (_norm, _is_norm),
    "attention": (_attention, _is_attention),
}


# -- asking ---------------------------------------------------------------------------------------


class _Given(nn.Module):
    """In place of a product: what it gives is known, and what it was given is seen."""

    def __init__(self, given: torch.Tensor) -> None:
        super().__init__()
        self.given = given
        self.seen: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x
        return self.given


def _copy(
    module: nn.Module,
    *,
    parameters: dict[str, torch.Tensor] | None = None,
    modules: dict[str, nn.Module] | None = None,
) -> Any:
    """A module of the same class and settings, with other weights or modules inside."""
    copied = copy.copy(module)
    vars(copied).update(_parameters=parameters or {}, _modules=modules or {})
    return copied


def _random(shape: Iterable[int], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator).to(dtype)


def _same(got: Any, expected: torch.Tensor) -> bool:
    return got.dtype == expected.dtype and torch.equal(got, expected)
