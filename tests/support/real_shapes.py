"""A layer or two of a Qwen2 model at its real widths, decoding behind 131,071 tokens.

    python tests/support/real_shapes.py Qwen2-7B        # one line of JSON: what tests assert

Real: widths, heads, experts, the rotary's base, the scheme (by the family's rules), the engine, its
pool of keys, the prefix store, admission, the steps, the kernel. Set: seeded random weights,
a vocabulary of 1,024, and the keys and values of the prompt, which are random numbers that stand in
the engine's prefix store as if an equal prompt had been served before: all but the prompt's last
token is found there and read in place.

Two prompts go through the engine, a prefix of each other, and each for two steps: the last token of
the prompt and one decoded token. The longer one decodes at 131,071; the shorter one stands where
the chunk before and the earlier ones are seen through different rotations. What is compared is the
attention of every layer, before its output projection, and the logits.

The oracle is float64 from the embedding to the logits and shares no code with `longctx`: a key is
turned, unfolded, by the distance at which the query sees it. It knows one thing of float32: what
transformers makes of position times frequency, which the model was trained with; the difference
from exact angles is compared too. Weights become float64 a block of rows at a time and keys a block
of positions at a time, so that little is added to the model's memory.

Shape legend: H query heads, K key/value heads, G query heads of one, L new tokens, M keys of a
block, D head dimension, F = D / 2 frequencies, E inputs and O outputs of a layer, N of its rows, X
experts, V vocabulary.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from oracle import relative_error, relative_position, rotate_dense
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from longctx.engine import Engine, EngineRequest
from longctx.engine.buffer import Segment

VOCABULARY, THETA, HEAD_DIM, EPS = 1024, 1e6, 128, 1e-6
FILLED = 131_070  # of the prompt's 131,071 tokens; the decoded token stands at 131,071
CHUNK, LOCAL, CAP = 32_768, 1_024, 32_768
# Within a chunk's first 1,024 tokens the chunk before and the earlier ones are turned differently.
NEAR_BORDER = 4 * (CHUNK - LOCAL) + 500
TEMPERATURE = (0.1 * math.log(4) + 1) ** 2  # the bucket's edge is 4 x 32,768
SHARPNESS = 3.0  # of queries: logits with this deviation let some keys stand out among 131,071
BLOCK, BLOCK_NUMBERS = 2_048, 1 << 20  # positions; numbers of a weight

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32_768,
    "rope_parameters": {"rope_type": "default", "rope_theta": THETA},
    "rms_norm_eps": EPS,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
}
_7B = {
    "hidden_size": 3_584,
    "intermediate_size": 18_944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
SHAPES: dict[str, Callable[[], Any]] = {
    "Qwen2-7B": lambda: Qwen2Config(**_SIZES, **_7B, num_hidden_layers=2),
    "Qwen2-72B": lambda: Qwen2Config(
        **_SIZES,
        hidden_size=8_192,
        intermediate_size=29_568,
        num_attention_heads=64,
        num_key_value_heads=8,
        num_hidden_layers=1,
    ),
    "Qwen2-57B-A14B": lambda: Qwen2MoeConfig(
        **_SIZES,
        **_7B,
        num_hidden_layers=1,
        num_experts=64,
        num_experts_per_tok=8,
        moe_intermediate_size=2_560,
        shared_expert_intermediate_size=20_480,
        norm_topk_prob=False,
        decoder_sparse_step=1,
    ),
}


def build(config: Any) -> Any:
    """The model in float32, every number drawn once: activations of about 1 everywhere."""
    moe = isinstance(config, Qwen2MoeConfig)
    with torch.device("meta"):
        model = (Qwen2MoeForCausalLM if moe else Qwen2ForCausalLM)(config)
    model = model.to_empty(device="cpu").float().eval()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            mean, deviation = (0.0, 0.5) if name.endswith("bias") else (1.0, 0.3)
        else:
            mean = 0.0
            deviation = 1.0 if "embed_tokens" in name else parameter.shape[-1] ** -0.5
        if "q_proj" in name:
            deviation *= SHARPNESS
        half = deviation * math.sqrt(3)
        parameter.data.uniform_(mean - half, mean + half, generator=generator)
    return model


# -- the prompt's keys and values -----------------------------------------------------------------


def drawn(kind: str, layer: int, heads: int, stop: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Blocks [K, M, D] of positions below `stop`, unrotated, the same numbers at every call."""
    for start in range(0, stop, BLOCK):
        seed = 2 * (layer * 1_000 + start // BLOCK) + (kind == "values")
        generator = torch.Generator().manual_seed(seed)
        block_KMD = torch.randn(heads, BLOCK, HEAD_DIM, generator=generator)
        yield start, block_KMD[:, : stop - start]


def fill(engine: Engine, config: Any, prompt: list[int], inv_freq_F: torch.Tensor) -> None:
    """Keep the prompt's keys and values as those of an earlier request."""
    scheduler, runner = engine._scheduler, engine._runner
    buffer = scheduler.pool.allocate(0, len(prompt))
    heads = config.num_key_value_heads
    for layer in range(config.num_hidden_layers):
        keys, values = (drawn(kind, layer, heads, len(prompt)) for kind in ("keys", "values"))
        for (start, k_KMD), (_, v_KMD) in zip(keys, values, strict=True):
            folded_M = torch.arange(start, start + k_KMD.shape[1]) % (CHUNK - LOCAL)
            buffer.write(layer, start, rotate_dense(k_KMD[None], folded_M, inv_freq_F)[0], v_KMD)
    tokens_N = np.asarray(prompt, dtype=np.int64)
    bucket = runner.bucket(len(prompt) + 1)
    scheduler.prefixes.insert(bucket, tokens_N, [Segment(buffer, len(prompt))])
    buffer.release()


# -- the oracle -----------------------------------------------------------------------------------


class Positions(NamedTuple):
    """What the oracle takes the scheme to be; others show that the comparison can fail."""

    cap: int = CAP
    logit_scale: float = TEMPERATURE
    float32_angles: bool = True


def linear(x_LE: torch.Tensor, weight_OE: torch.Tensor, bias_O: Any = None) -> torch.Tensor:
    """x W^T + b in float64."""
    rows = -(-BLOCK_NUMBERS // weight_OE.shape[1])
    out_LO = torch.cat([x_LE @ part_NE.double().mT for part_NE in weight_OE.split(rows)], dim=-1)
    return out_LO if bias_O is None else out_LO + bias_O.double()


def norm(x_LE: torch.Tensor, weight_E: torch.Tensor) -> torch.Tensor:
    return x_LE * (x_LE.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight_E.double()


def swiglu(x_LE: torch.Tensor, gate: Any, up: Any, down: Any) -> torch.Tensor:
    gate_LO = linear(x_LE, gate)
    return linear(gate_LO * gate_LO.sigmoid() * linear(x_LE, up), down)


class Oracle:
    """What the model answers to new tokens behind `past` drawn keys."""

    def __init__(self, model: Any, inv_freq_F: torch.Tensor, past: int) -> None:
        self.weights = dict(model.named_parameters())
        self.config, self.inv_freq_F, self.past = model.config, inv_freq_F, past

    @torch.inference_mode()
    def step(self, ids: list[int], positions: Positions) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Attention's output [L, H * D] of every layer, and logits [L, V]."""
        weights, outs = self.weights, []
        x_LE = weights["model.embed_tokens.weight"][ids].double()
        for layer in range(self.config.num_hidden_layers):
            name = f"model.layers.{layer}."
            h_LE = norm(x_LE, weights[f"{name}input_layernorm.weight"])
            outs.append(self._attention(layer, h_LE, positions))
            x_LE = x_LE + linear(outs[-1], weights[f"{name}self_attn.o_proj.weight"])
            h_LE = norm(x_LE, weights[f"{name}post_attention_layernorm.weight"])
            x_LE = x_LE + self._mlp(f"{name}mlp.", h_LE)
        logits_LV = linear(norm(x_LE, weights["model.norm.weight"]), weights["lm_head.weight"])
        return outs, logits_LV

    def _projected(self, layer: int, name: str, h_LE: torch.Tensor) -> torch.Tensor:
        """[heads, L, D]."""
        name = f"model.layers.{layer}.self_attn.{name}_proj."
        out_LO = linear(h_LE, self.weights[f"{name}weight"], self.weights[f"{name}bias"])
        return out_LO.unflatten(-1, (-1, HEAD_DIM)).transpose(0, 1)

    def _attention(self, layer: int, h_LE: torch.Tensor, positions: Positions) -> torch.Tensor:
        q_HLD, new_k_KLD, new_v_KLD = (self._projected(layer, name, h_LE) for name in "qkv")
        heads, new = len(new_k_KLD), range(len(h_LE))
        if positions.float32_angles:
            for at in new:
                for x in (q_HLD, new_k_KLD):
                    x[:, at] = self._turned_as_float32(x[:, at], self.past + at)
        q_KLGD = q_HLD.unflatten(0, (heads, -1)).transpose(1, 2)

        def logits(at: int, start: int, k_KMD: torch.Tensor) -> torch.Tensor:
            """[K, G, M]: (R(a) q) . k = q . (R(-a) k) of one query."""
            stop = start + k_KMD.shape[1]
            away_M = [
                -relative_position(self.past + at, j, CHUNK, LOCAL, positions.cap)
                for j in range(start, stop)
            ]
            turned_1KMD = rotate_dense(k_KMD.double()[None], torch.tensor(away_M), self.inv_freq_F)
            scale = HEAD_DIM**-0.5 * positions.logit_scale
            return q_KLGD[:, at] @ turned_1KMD[0].mT * scale

        parts: list[list[torch.Tensor]] = [[] for _ in new]
        for start, k_KMD in drawn("keys", layer, heads, self.past):
            for at in new:
                parts[at].append(logits(at, start, k_KMD))
        weights, outs = [], []
        for at in new:
            parts[at].append(logits(at, self.past, new_k_KLD[:, : at + 1]))
            weights.append(torch.cat(parts[at], dim=-1).softmax(-1))
            outs.append(weights[at][..., self.past :] @ new_v_KLD[:, : at + 1])
        for start, v_KMD in drawn("values", layer, heads, self.past):
            v_KMD = v_KMD.double()
            for at in new:
                outs[at] += weights[at][..., start : start + v_KMD.shape[1]] @ v_KMD
        return torch.stack([out_KGD.flatten() for out_KGD in outs])

    def _turned_as_float32(self, x_HD: torch.Tensor, position: int) -> torch.Tensor:
        """By what the float32 product of folded position and frequency is off."""
        folded = position % (CHUNK - LOCAL)
        product_F = torch.tensor(float(folded)) * self.inv_freq_F.float()
        off_F = product_F.double() - folded * self.inv_freq_F
        return rotate_dense(x_HD[None, :, None], torch.tensor([1]), off_F)[0, :, 0]

    def _mlp(self, name: str, h_LE: torch.Tensor) -> torch.Tensor:
        weights = self.weights
        if not isinstance(self.config, Qwen2MoeConfig):
            return swiglu(
                h_LE, *(weights[f"{name}{n}_proj.weight"] for n in ("gate", "up", "down"))
            )
        chances_LX = linear(h_LE, weights[f"{name}gate.weight"]).softmax(-1)
        best = chances_LX.topk(self.config.num_experts_per_tok, dim=-1)
        gates_up, downs = (weights[f"{name}experts.{n}_proj"] for n in ("gate_up", "down"))
        shared = (weights[f"{name}shared_expert.{n}_proj.weight"] for n in ("gate", "up", "down"))
        open_L1 = linear(h_LE, weights[f"{name}shared_expert_gate.weight"]).sigmoid()
        out_LE = open_L1 * swiglu(h_LE, *shared)
        for at, (chances, chosen) in enumerate(zip(best.values, best.indices, strict=True)):
            h_1E = h_LE[at : at + 1]
            for chance, expert in zip(chances, chosen, strict=True):
                gate, up = gates_up[expert].chunk(2)
                out_LE[at] += chance * swiglu(h_1E, gate, up, downs[expert])[0]
        return out_LE


# -- the comparison -------------------------------------------------------------------------------


class Served(NamedTuple):
    """What the engine made of one prompt: two forwards, the second of which decodes."""

    ids: list[int]
    answer: tuple[int, ...]
    outs: list[torch.Tensor]
    logits_LV: torch.Tensor
    cached: int


def serve(engine: Engine, model: Any, prompt: list[int]) -> Served:
    outs: list[list[torch.Tensor]] = [[] for _ in model.model.layers]
    logits: list[torch.Tensor] = []
    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda _, args, own=own: own.append(args[0][0].clone())
        )
        for layer, own in zip(model.model.layers, outs, strict=True)
    ]
    hooks.append(
        model.lm_head.register_forward_hook(lambda *args: logits.append(args[2][0].clone()))
    )
    handle = engine.submit(EngineRequest(prompt, max_new_tokens=2, ignore_eos=True))
    steps = engine.run_until_idle()
    answer = handle.result(timeout=0)
    for hook in hooks:
        hook.remove()
    assert steps == 2 and all(len(own) == 2 for own in (*outs, logits))
    ids = [prompt[-1], answer.token_ids[0]]
    joined = [torch.cat(own) for own in outs]
    return Served(ids, answer.token_ids, joined, torch.cat(logits), answer.usage.cached_tokens)


def errors(served: Served, outs: list[torch.Tensor], logits_LV: torch.Tensor) -> dict[str, Any]:
    """The prompt's last token and the decoded one, each: L2 of attention, greatest of logits."""
    off_L = (served.logits_LV.double() - logits_LV).abs().amax(-1) / logits_LV.abs().amax(-1)
    return {
        "attention": [
            [relative_error(got, want) for got, want in zip(mine, right, strict=True)]
            for mine, right in zip(served.outs, outs, strict=True)
        ],
        "logits": off_L.tolist(),
        "greedy": list(served.answer) == logits_LV.argmax(-1).tolist(),
    }


def peak_bytes() -> int:
    """Of this program alone: ru_maxrss would count the parent that it was forked from."""
    (found,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found) << 10


def main(name: str) -> dict[str, Any]:
    laps, times = [time.perf_counter()], {}

    def lap(what: str) -> None:
        laps.append(time.perf_counter())
        times[what] = round(laps[-1] - laps[-2], 1)

    config = SHAPES[name]()
    model = build(config)
    lap("weights")
    inv_freq_F = model.model.rotary_emb.inv_freq.double()
    exact_F = THETA ** -(torch.arange(0, HEAD_DIM, 2, dtype=torch.float64) / HEAD_DIM)
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(VOCABULARY, (FILLED + 1,), generator=generator).tolist()
    lengths = {"far": FILLED + 1, "near a border": NEAR_BORDER + 1}
    per_token = 2 * 4 * config.num_hidden_layers * config.num_key_value_heads * HEAD_DIM
    budget = per_token * (FILLED + 256)  # whole blocks: the prompt's, and what is new behind it
    with Engine(model, None, "yarn+dca", max_context=FILLED + 3, kv_budget_bytes=budget) as engine:
        fill(engine, config, prompt[:FILLED], inv_freq_F)
        lap("engine and keys")
        served = {where: serve(engine, model, prompt[:n]) for where, n in lengths.items()}
        lap("steps")
        result: dict[str, Any] = {"scheme": engine.scheme.to_dict(), "kernel": engine.kernel_name}
    torch.set_num_threads(1)  # the oracle's many small products are slower on more
    result["frequencies"] = (inv_freq_F / exact_F - 1).abs().max().item()
    result["cached"] = [each.cached for each in served.values()]

    def compare(where: str, positions: Positions) -> dict[str, Any]:
        oracle = Oracle(model, inv_freq_F, lengths[where] - 1)
        return errors(served[where], *oracle.step(served[where].ids, positions))

    for where in lengths:
        result[where] = compare(where, Positions())
    lap("oracle")
    if name == "Qwen2-7B":
        result["exact angles"] = compare("far", Positions(float32_angles=False))
        result["no temperature"] = compare("far", Positions(logit_scale=1.0))
        result["the other cap"] = compare("far", Positions(cap=CAP - 1))
        lap("other oracles")
    return result | {"peak_bytes": peak_bytes(), "seconds": times}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
