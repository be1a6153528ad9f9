"""A transformers model that runs packed steps: the one file of the engine that touches the model.

While a runner is open the model's attention is ours, selected on a copy of its config, its rotary
has the scheme's frequencies, and on a CPU its linear weights are packed; close() puts all back.
Positions are folded here: the model sees p mod S. The model's own code is not changed. Knows no
requests.

Shape legend: T packed tokens of the step, R rows whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from longctx.attention import Scheme, kernels
from longctx.attention.chunks import Turns, turns_of
from longctx.attention.config import rope_parameters
from longctx.attention.hf.model import find_parts
from longctx.attention.hf.patch import SchemePatch, owner
from longctx.attention.int8_keys import row_bytes
from longctx.attention.kernels.base import Kernel
from longctx.attention.kernels.in_int8 import InInt8
from longctx.attention.rope import temperature_bucket
from longctx.engine import batch_attention, memory
from longctx.engine.batch_attention import RowInput, plan_batch
from longctx.engine.buffer import Segment
from longctx.engine.errors import NonFiniteLogitsError
from longctx.engine.fused import FusedModules
from longctx.engine.key_factors import KeyFactors, key_factors
from longctx.engine.kv import KvPool
from longctx.engine.packed import PackedLinears
from longctx.errors import UserError

# Rotaries whose keys are a function of token and position alone: others follow the longest prompt
# of a forward, so that one request would change another.
_FIXED_ROPES = ("default", "linear", "llama3", "yarn", "proportional")


class Runner:
    """Owns a model until close().

    Args:
        kernel: "auto" or a name of `longctx.attention.kernels.names()`.
        kv_dtype: what keys and values are kept, and attention computed, in; None: the model's.
        pack: bring linear weights into the CPU's own layout, which pays from some steps on.

    Raises:
        RuntimeError: the model is extended, or belongs to another engine.
        UserError: a model that cannot be served; the message names why.
        ValueError: a kernel that cannot run there.
    """

    def __init__(
        self,
        model: Any,
        scheme: Scheme,
        kernel: str = "auto",
        kv_dtype: torch.dtype | None = None,
        *,
        pack: bool = True,
    ) -> None:
        if owner(model) is not None:
            raise RuntimeError(
                "the model has another longctx scheme or engine: remove() or close() that first"
            )
        parts = find_parts(model)
        self.model, self.scheme = parts.model, scheme
        self._base, self._rotary = parts.base, parts.rotary
        self._config = config = self._base.config
        rope_type = rope_parameters(config)["rope_type"]
        if rope_type not in _FIXED_ROPES:
            raise UserError(
                f"rope_type {rope_type!r} lets keys depend on the length of a prompt, so requests "
                "in one batch would change each other: set it to 'default', or choose a method"
            )
        self.kv_dtype: torch.dtype = kv_dtype or self.model.dtype
        self._factors: tuple[KeyFactors | None, ...] = ()
        rotary_device = self._rotary.inv_freq.device
        if self.kv_dtype == torch.int8:
            self._kernel: Kernel = InInt8(kernels.resolve(kernel, rotary_device, self.model.dtype))
            self._check_int8()
            self._factors = key_factors(self._base.layers, *self._heads)
        else:
            self._kernel = kernels.resolve(kernel, rotary_device, self.kv_dtype)
            if self.kv_dtype != self.model.dtype:
                self._kernel = batch_attention.InKeysDtype(self._kernel)
        self._dtype = torch.promote_types(self.model.dtype, torch.float32)
        self._turns: Turns | None = None
        batch_attention.register()
        self._patch = SchemePatch(parts, scheme, self, batch_attention.ATTENTION_NAME)
        self._was_training = self.model.training
        self.model.eval()
        self._fused = FusedModules(None)
        try:
            self._fused = FusedModules(self.model)
            self._packed = PackedLinears(self.model if pack else None)
        except BaseException:
            self._fused.undo()
            self._patch.remove()
            raise
        self._open = True

    def close(self) -> None:
        """Put the model back. Closing twice is harmless."""
        if not self._open:
            return
        self._open = False
        self._packed.unpack()
        self._fused.undo()
        self._patch.remove()
        self.model.train(self._was_training)

    # -- what the engine asks -------------------------------------------------------------------

    @property
    def kernel_name(self) -> str:
        return self._kernel.name

    @property
    def layers(self) -> int:
        return int(self._config.num_hidden_layers)

    @property
    def vocabulary(self) -> int:
        return int(self._config.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        embedding: Any = self.model.get_input_embeddings()
        device: torch.device = embedding.weight.device
        # Offloaded weights are nowhere until their hook brings them in.
        return self._rotary.inv_freq.device if device.type == "meta" else device

    @property
    def layer_devices(self) -> list[torch.device]:
        """Where each layer's keys and values lie: where the layer is computed."""
        found = []
        for layer in self._base.layers:
            device = next(layer.parameters()).device
            if device.type == "meta":  # offloaded: its hook brings it to where it is computed
                hook = getattr(layer, "_hf_hook", None)
                device = getattr(hook, "execution_device", None) or self.device
            found.append(torch.device(device))
        return found

    def kv_budget(self, chunk_budget: int, max_running: int) -> int:
        """Bytes that keys and values may take beside a step.

        Raises:
            UserError: there is no room for any.
        """
        step = self.step_bytes(chunk_budget, memory.step_rows(max_running))
        return memory.default_kv_budget(self.layer_devices, step)

    @property
    def kv_bytes_per_token(self) -> int:
        _, kv_heads, dim = self._heads
        size = row_bytes(dim) if self.kv_dtype == torch.int8 else dim * self.kv_dtype.itemsize
        return 2 * self.layers * kv_heads * size

    @property
    def _heads(self) -> tuple[int, int, int]:
        """Query heads, key/value heads, head dimension."""
        config: Any = self._config
        heads = int(config.num_attention_heads)
        kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        return heads, kv_heads, 2 * self._rotary.inv_freq.shape[0]

    def _check_int8(self) -> None:
        others = sorted({device.type for device in self.layer_devices} - {"cpu"})
        if others:
            raise UserError(
                f"kv_dtype int8: layers lie on {', '.join(others)}, and keys in int8 are read on "
                "a CPU alone: leave it out, or take bfloat16"
            )

    @property
    def packs(self) -> bool:
        """Whether the kernel reads all sequences of a step in one call, from one tensor."""
        ready = getattr(self._kernel, "packs", None)
        return ready is not None and bool(ready(2 * self._rotary.inv_freq.shape[0]))

    @property
    def page(self) -> int:
        """Tokens of a page, where the kernel finds keys by a table of them; else 0."""
        asked = getattr(self._kernel, "pages", None)
        pages = asked() if asked and self.packs else None
        return pages.tokens if pages else 0

    def step_bytes(self, tokens: int, logit_rows: int) -> int:
        """About what one step takes beside keys and values."""
        return memory.step_bytes(self._config, self.model.dtype.itemsize, tokens, logit_rows)

    def bucket(self, request_length: int) -> int:
        """What the temperature is taken at; requests of one bucket share prefixes."""
        if not self.scheme.uses_request_length:
            return 0
        return temperature_bucket(request_length, self.scheme.original_length)

    def logit_scale(self, bucket: int) -> float:
        """m^2."""
        return self.scheme.logit_scale(bucket)

    @torch.inference_mode()
    def hidden(
        self, tokens: Sequence[int], layers: int | None = None, request_length: int | None = None
    ) -> torch.Tensor:
        """Hidden states [T, width] of one prompt behind the first `layers`; nothing is kept.

        Args:
            layers: None: all of them, and the last norm.
            request_length: what the temperature is taken at; None: the prompt's own.
        """
        pool = KvPool(self.layers, self.kv_bytes_per_token, 0, dtype=self.kv_dtype)
        own = pool.allocate(0, len(tokens))
        scale = self.logit_scale(self.bucket(request_length or len(tokens)))
        row = RowInput(0, len(tokens), own, [Segment(own, len(tokens))], scale)
        config, whole = self._base.config, self.layers
        # Decoders of transformers run `self.layers[: self.config.num_hidden_layers]`.
        config.num_hidden_layers = layers or whole
        try:
            out = self._base(use_cache=False, **self._inputs(tokens, [row]))
        finally:
            config.num_hidden_layers = whole
        states: torch.Tensor = out.last_hidden_state[0]
        return states

    def probe(self) -> None:
        """Compute one token.

        Raises:
            Exception: what the device complains of.
            NonFiniteLogitsError: it gives no numbers.
        """
        if not bool(self.hidden([0]).isfinite().all()):
            raise NonFiniteLogitsError

    # -- one step -------------------------------------------------------------------------------

    @torch.inference_mode()
    def forward(
        self, tokens: Sequence[int], rows: Sequence[RowInput], wanted: Sequence[int]
    ) -> torch.Tensor:
        """Logits [R, V] of the wanted rows of one packed step.

        Args:
            tokens: of all rows, one sequence behind the other.
            rows: whose they are.
            wanted: indices into `tokens`.
        """
        out = self.model(
            use_cache=False,
            # No tensor: it indexes hidden states, which may end on another device than ids go to.
            # A device_map's hooks bring tensors to the first, and logits to where these came from.
            logits_to_keep=list(wanted),
            **self._inputs(tokens, rows),
        )
        logits_RV: torch.Tensor = out.logits[0]
        return logits_RV

    def _inputs(self, tokens: Sequence[int], rows: Sequence[RowInput]) -> dict[str, Any]:
        """What the model's forward takes: ids, folded positions, and the plan of the step."""
        chunk_len = self.scheme.chunk_len
        positions: list[int] = []
        for row in rows:
            positions.extend(range(row.start, row.start + row.length))
        position_ids_1T = torch.tensor([positions])
        if chunk_len is not None:
            position_ids_1T %= chunk_len
        self._turns = turns_of(
            self.scheme.chunk_map, self._rotary.inv_freq, self._dtype, self._turns
        )
        plan = plan_batch(rows, self._turns, self._kernel, self._factors)
        return {
            "input_ids": torch.tensor([list(tokens)], device=self.device),
            "position_ids": position_ids_1T.to(self.device),
            "longctx_batch": plan,
        }
