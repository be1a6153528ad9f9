"""Dual Chunk Attention's positions: which relative position a query gives to each key.

Pure functions of numbers (Qwen2.5-1M, arXiv 2501.15383; DCA, arXiv 2402.17463); knows no tensors'
contents, kernels or models. Indices: p absolute position in the sequence, S chunk_len,
r = p mod S, c = p // S.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

Cap = Literal["chunk_size", "chunk_size-1"]
CAPS: tuple[str, ...] = get_args(Cap)


@dataclass(frozen=True)
class ChunkMap:
    """How positions fold into a trained window of `chunk_size` tokens.

    A key is rotated once, at r = p mod S, and stays so for ever. A query is rotated
    three ways; the relative position that the softmax sees for query i and key j <= i is

        same chunk        q_intra - r_j = r_i - r_j            (= i - j)
        chunk before      q_succ  - r_j = min(r_i + S, cap) - r_j
        earlier chunks    q_inter - r_j = min(2S - 1, cap) - r_j

    Attributes:
        chunk_size: C, at most the window the model was trained on, in tokens.
        local_size: w, how far the next chunk still sees true distances, in tokens.
        cap: largest relative position: "chunk_size" (what the engines that served Qwen used)
            or "chunk_size-1" (the papers).

    Raises:
        ValueError: unless 0 < w < C and 2S - 1 >= cap (else the map would shrink distances that
            fit the window).
    """

    chunk_size: int
    local_size: int
    cap: Cap = "chunk_size"

    def __post_init__(self) -> None:
        if self.cap not in CAPS:
            raise ValueError(f"cap={self.cap!r} is unknown: choose one of {', '.join(CAPS)}")
        if not 0 < self.local_size < self.chunk_size:
            raise ValueError(
                f"local_size={self.local_size} must lie between 0 and "
                f"chunk_size={self.chunk_size}, both exclusive"
            )
        if 2 * self.chunk_len - 1 < self.max_position:
            raise ValueError(
                f"chunk_size={self.chunk_size} with local_size={self.local_size} leaves chunks of "
                f"S={self.chunk_len} tokens, whose largest relative position 2S-1="
                f"{2 * self.chunk_len - 1} is below the cap {self.max_position}: true distances "
                f"would shrink; use a smaller local_size (at most {self._largest_local_size()})"
            )

    def _largest_local_size(self) -> int:
        return self.chunk_size - (self.max_position + 2) // 2

    @property
    def chunk_len(self) -> int:
        """S = chunk_size - local_size: tokens in a real chunk."""
        return self.chunk_size - self.local_size

    @property
    def max_position(self) -> int:
        """The cap as a number: the largest relative position any query gives to any key."""
        return self.chunk_size if self.cap == "chunk_size" else self.chunk_size - 1

    @property
    def capped_from(self) -> int:
        """First r whose q_succ is cut by the cap.

        Since 2S - 1 >= cap, q_inter = cap: from here on q_succ and q_inter are one rotation, and
        the whole past behind the chunk is one part.
        """
        return self.max_position - self.chunk_len

    def key(self, p: int) -> int:
        return p % self.chunk_len

    def q_intra(self, p: int) -> int:
        return p % self.chunk_len

    def q_succ(self, p: int) -> int:
        return min(p % self.chunk_len + self.chunk_len, self.max_position)

    @property
    def q_inter(self) -> int:
        return min(2 * self.chunk_len - 1, self.max_position)

    def relative(self, i: int, j: int) -> int:
        """Relative position that query i gives to key j.

        Raises:
            ValueError: j > i; the future has no position.
        """
        if j > i:
            raise ValueError(f"key {j} lies after query {i}")
        distance_in_chunks = i // self.chunk_len - j // self.chunk_len
        if distance_in_chunks == 0:
            return self.q_intra(i) - self.key(j)
        if distance_in_chunks == 1:
            return self.q_succ(i) - self.key(j)
        return self.q_inter - self.key(j)

    def relative_matrix(self, length: int) -> torch.Tensor:
        """Relative positions [length, length] int64, -1 above the diagonal (never attended)."""
        p = torch.arange(length)
        r, c = p % self.chunk_len, p // self.chunk_len
        chunks_LM = c[:, None] - c[None, :]
        q_LM = torch.where(
            chunks_LM == 0,
            r[:, None],
            torch.where(
                chunks_LM == 1,
                (r + self.chunk_len).clamp(max=self.max_position)[:, None],
                torch.tensor(self.q_inter),
            ),
        )
        return torch.where(p[:, None] >= p[None, :], q_LM - r[None, :], -1)

    def __str__(self) -> str:
        """The map drawn over three and a bit chunks, sampled to fit a terminal."""
        length = 3 * self.chunk_len + min(self.local_size, self.chunk_len)
        step = max(1, -(-length // 20))
        rows = range(step - 1, length, step)
        width = len(str(self.max_position))
        lines = [
            f"chunk_size {self.chunk_size}  local_size {self.local_size}  "
            f"chunk_len {self.chunk_len}  cap {self.cap} ({self.max_position})",
            f"relative position by query (down) and key (right), every {step}"
            f"{' token' if step == 1 else ' tokens'}:",
        ]
        for i in rows:
            cells = [f"{self.relative(i, j):>{width}}" for j in range(0, i + 1, step)]
            lines.append(f"{i:>8} | " + " ".join(cells))
        return "\n".join(lines)
