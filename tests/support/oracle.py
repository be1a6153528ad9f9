"""Dense float64 oracles that build their own inputs: positions, rotations, masks.

They share no code with `longctx.attention`: positions come from the definitions in plain Python,
and rotary enters through the relative position of each pair, so no folding can hide a mistake.
Shape legend: B batch, H query heads, K key/value heads, L tokens, D head dimension, F = D / 2.
"""

import copy
import math

import torch


def relative_position(i: int, j: int, chunk_size: int, local_size: int, cap: int) -> int:
    """Relative position that query i gives to key j <= i."""
    chunk_len = chunk_size - local_size
    r_i, r_j = i % chunk_len, j % chunk_len
    chunks = i // chunk_len - j // chunk_len
    if chunks == 0:
        return r_i - r_j
    if chunks == 1:
        return min(r_i + chunk_len, cap) - r_j
    return min(2 * chunk_len - 1, cap) - r_j


def dca_positions(length: int, chunk_size: int, local_size: int, cap: int) -> torch.Tensor:
    """[L, L] relative positions, -1 for the future."""
    rel_LL = torch.full((length, length), -1)
    for i in range(length):
        for j in range(i + 1):
            rel_LL[i, j] = relative_position(i, j, chunk_size, local_size, cap)
    return rel_LL


def plain_positions(length: int) -> torch.Tensor:
    p = torch.arange(length)
    return torch.where(p[:, None] >= p[None, :], p[:, None] - p[None, :], -1)


def dense_attention(
    q_BHLD: torch.Tensor,
    k_BKLD: torch.Tensor,
    v_BKLD: torch.Tensor,
    rel_LL: torch.Tensor,
    inv_freq_F: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Softmax attention of *unrotated* q and k whose pair (i, j) stands rel_LL[i, j] apart.

    (R(a) q) . (R(b) k) = (R(a - b) q) . k: for every distance that occurs, the queries of
    its pairs are turned by it and meet their keys as they are.
    """
    q_BHLD = q_BHLD.double()
    group = q_BHLD.shape[1] // k_BKLD.shape[1]
    k_BHLD = k_BKLD.double().repeat_interleave(group, dim=1)
    v_BHLD = v_BKLD.double().repeat_interleave(group, dim=1)
    logits_BHLL = q_BHLD.new_full((*q_BHLD.shape[:3], k_BHLD.shape[2]), -math.inf)
    for distance in rel_LL[rel_LL >= 0].unique():
        i, j = (rel_LL == distance).nonzero(as_tuple=True)
        turned_BHND = rotate_dense(q_BHLD[:, :, i], distance.repeat(len(i)), inv_freq_F)
        logits_BHLL[:, :, i, j] = (turned_BHND * k_BHLD[:, :, j]).sum(-1) * scale
    return logits_BHLL.softmax(-1) @ v_BHLD


def rotate_dense(x_BHLD: torch.Tensor, positions_L: torch.Tensor, inv_freq_F: torch.Tensor):
    """Rotary embedding at given positions in float64, back in x's dtype."""
    freqs = inv_freq_F.shape[0]
    angle_LF = positions_L.double()[:, None] * inv_freq_F.double()
    cos, sin = angle_LF.cos(), angle_LF.sin()
    x1, x2 = x_BHLD.double()[..., :freqs], x_BHLD.double()[..., freqs:]
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), -1).to(x_BHLD.dtype)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()


class DenseModel:
    """A transformers decoder's logits with dense attention at given relative positions.

    Uses a float64 copy of the model's own linear layers, norms and MLPs, which know no positions;
    everything that does is computed here.
    """

    def __init__(self, model: torch.nn.Module, inv_freq_F: torch.Tensor | None = None) -> None:
        self.model = copy.deepcopy(model).double()
        if hasattr(self.model, "set_experts_implementation"):
            self.model.set_experts_implementation("eager")  # the grouped one has no float64
        config = model.config
        head_dim = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        if inv_freq_F is None:
            theta = config.rope_parameters["rope_theta"]
            exponent = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
            inv_freq_F = theta**-exponent
        self.inv_freq_F, self.head_dim = inv_freq_F.double(), head_dim

    @torch.no_grad()
    def logits(
        self, ids_BL: torch.Tensor, rel_LL: torch.Tensor, logit_scale: float = 1.0
    ) -> torch.Tensor:
        """[B, L, vocabulary] in float64."""
        base = self.model.model
        x_BLE = base.embed_tokens(ids_BL)
        batch, length = ids_BL.shape
        for layer in base.layers:
            attention = layer.self_attn
            h_BLE = layer.input_layernorm(x_BLE)
            shape = (batch, length, -1, self.head_dim)
            q = attention.q_proj(h_BLE).view(shape)
            k = attention.k_proj(h_BLE).view(shape)
            v = attention.v_proj(h_BLE).view(shape)
            if hasattr(attention, "q_norm"):
                q, k = attention.q_norm(q), attention.k_norm(k)
            out = dense_attention(
                q.transpose(1, 2),
                k.transpose(1, 2),
                v.transpose(1, 2),
                rel_LL,
                self.inv_freq_F,
                self.head_dim**-0.5 * logit_scale,
            )
            x_BLE = x_BLE + attention.o_proj(out.transpose(1, 2).reshape(batch, length, -1))
            mlp = layer.mlp(layer.post_attention_layernorm(x_BLE))
            x_BLE = x_BLE + (mlp[0] if isinstance(mlp, tuple) else mlp)
        return self.model.lm_head(base.norm(x_BLE))

    def greedy(self, ids_1L: torch.Tensor, steps: int, positions, scale: float = 1.0) -> list[int]:
        """Greedy continuation; `positions(length)` gives the [length, length] matrix."""
        new: list[int] = []
        for _ in range(steps):
            logits = self.logits(ids_1L, positions(ids_1L.shape[1]), scale)
            new.append(int(logits[0, -1].argmax()))
            ids_1L = torch.cat((ids_1L, torch.tensor([[new[-1]]])), dim=1)
        return new
