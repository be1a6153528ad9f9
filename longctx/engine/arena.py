"""One tensor of keys and one of values a layer, cut into runs of slots: for kernels that pack.

A kernel of packed sequences reads every sequence of a step from one tensor, in one call; so where
the kernel packs, the whole budget is one tensor a layer, and buffers are runs of its slots. A run
grows where it ends if it can, or else lies in few pieces. Knows no requests.

Shape legend: K key/value heads, T tokens of a step, M slots, D head dimension.
"""

from __future__ import annotations

import bisect

import torch


class Arena:
    """Args:
    slots: tokens that it holds.
    dtype: what keys and values are kept in; None: as the model gives them.
    spare: slots behind those, which nobody gets: a page that begins with the last token ends there.
    """

    def __init__(self, slots: int, layers: int, dtype: torch.dtype | None, spare: int = 0) -> None:
        self._holes: list[tuple[int, int]] = [(0, slots)] if slots else []  # (at, length), sorted
        self._slots = slots + spare
        self._dtype = dtype
        self._layers: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * layers

    @property
    def longest(self) -> int:
        """Slots of the longest run that can be had."""
        return max((length for _, length in self._holes), default=0)

    def take(self, count: int) -> int:
        """The first slot of a run of `count`, from the smallest hole that holds it.

        Raises:
            MemoryError: no hole is that long.
        """
        fitting = [hole for hole in self._holes if hole[1] >= count]
        if not fitting:
            raise MemoryError(f"no run of {count} slots is free, the longest has {self.longest}")
        at, _ = min(fitting, key=lambda hole: hole[1])
        self._cut(at, count)
        return at

    def take_pieces(self, count: int, behind: int | None = None) -> list[tuple[int, int]]:
        """`count` slots in as few runs (at, length) as can be.

        Args:
            behind: a slot; what is free from there on comes first, so that a run grows.

        Raises:
            MemoryError: fewer are free.
        """
        if count > (free := sum(length for _, length in self._holes)):
            raise MemoryError(f"{count} slots are asked for, {free} are free")
        pieces: list[tuple[int, int]] = []
        if behind is not None:
            place = bisect.bisect_left(self._holes, (behind, 0))
            if place < len(self._holes) and self._holes[place][0] == behind:
                pieces.append((behind, min(count, self._holes[place][1])))
                self._cut(*pieces[0])
                count -= pieces[0][1]
        while count:
            length = min(count, self.longest)
            pieces.append((self.take(length), length))
            count -= length
        return pieces

    def _cut(self, at: int, count: int) -> None:
        """Take the first `count` slots of the hole at `at`."""
        place = bisect.bisect_left(self._holes, (at, 0))
        _, length = self._holes.pop(place)
        if length > count:
            self._holes.insert(place, (at + count, length - count))

    def give(self, at: int, count: int) -> None:
        """Take a run back; it joins the holes beside it."""
        if not count:
            return
        place = bisect.bisect(self._holes, (at, 0))
        if place < len(self._holes) and self._holes[place][0] == at + count:
            count += self._holes.pop(place)[1]
        if place and sum(self._holes[place - 1]) == at:
            first, length = self._holes.pop(place - 1)
            at, count = first, length + count
        bisect.insort(self._holes, (at, count))

    def drop(self) -> None:
        """Give the tensors back; they are made again by a next write."""
        self._layers = [None] * len(self._layers)

    def write(
        self, layer: int, slots_T: torch.Tensor, k_KTD: torch.Tensor, v_KTD: torch.Tensor
    ) -> None:
        """Store the tokens of a step, all rows at once.

        Args:
            slots_T: int64, on the layer's device.
        """
        k_MKD, v_MKD = self._made(layer, k_KTD, v_KTD)
        k_MKD.index_copy_(0, slots_T, k_KTD.transpose(0, 1).to(k_MKD.dtype))
        v_MKD.index_copy_(0, slots_T, v_KTD.transpose(0, 1).to(v_MKD.dtype))

    def stack(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views [1, K, M, D] of all slots, the spare ones too."""
        held = self._layers[layer]
        assert held is not None, f"layer {layer} was read before it was written"
        k_MKD, v_MKD = held
        return k_MKD.transpose(0, 1)[None], v_MKD.transpose(0, 1)[None]

    def run(
        self, layer: int, at: int, count: int, k_KLD: torch.Tensor, v_KLD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Views [K, `count`, D] of a run, made where this layer's keys and values are."""
        k_MKD, v_MKD = self._made(layer, k_KLD, v_KLD)
        return k_MKD[at : at + count].transpose(0, 1), v_MKD[at : at + count].transpose(0, 1)

    def _made(
        self, layer: int, k_KLD: torch.Tensor, v_KLD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        held = self._layers[layer]
        if held is None:
            # Zeros: a kernel may load what lies behind a run's end before it masks it, and what is
            # not a number would pass through the mask.
            k_MKD, v_MKD = (
                x.new_zeros(self._slots, x.shape[0], x.shape[2], dtype=self._dtype)
                for x in (k_KLD, v_KLD)
            )
            held = self._layers[layer] = k_MKD, v_MKD
        return held
