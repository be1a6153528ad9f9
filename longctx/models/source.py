"""Find and load a model: a local directory, a hub id, or a GGUF file.

Knows where weights and tokenizers lie and how to name what is wrong with them. Does not know what
they are for: no prompt, no attention method, no command. Remote code is never run, pickled weights
are never read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from longctx import tiny
from longctx.errors import UserError
from longctx.models import checks, smollm2

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Begins the names of models that answer by a rule: simulated.py.
SIMULATED = "sim:"
DTYPES = ("auto", "float32", "bfloat16", "float16")

# Below this a fingerprint reads every byte; above it 64 KiB blocks spread evenly over each file.
_HASH_WHOLE_BELOW = 2 << 30
_SAMPLES, _SAMPLE_BYTES = 256, 64 << 10

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
_SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]
# Mistral's repositories hold every weight a second time as consolidated.safetensors.
_SKIPPED_FILES = ["consolidated*", "original/*", "onnx/*"]


@dataclass(frozen=True)
class Source:
    """Where a model was found. `directory` plus `gguf_file` is what from_pretrained takes."""

    name: str
    kind: Literal["directory", "hub", "gguf"]
    directory: Path
    gguf_file: str | None = None

    @property
    def load_arguments(self) -> dict[str, Any]:
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}

    def weight_files(self) -> list[Path]:
        if self.gguf_file:
            return [self.directory / self.gguf_file]
        return sorted(self.directory.glob("*.safetensors"))


@dataclass(frozen=True)
class ModelShape:
    """The sizes that memory and time estimates need."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def layer_parameters(self) -> int:
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    def kv_bytes(self, tokens: int, bytes_per_value: int) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * bytes_per_value


def locate(name: str, *, weights: bool = True) -> Source:
    """Turn what the user typed into files on this disk; a hub id is downloaded on first use.

    `embedded` is the model that comes with the package, `smollm2` the one of that extra.
    """
    if name == tiny.EMBEDDED:
        return Source(name, "directory", tiny.WEIGHTS)
    if name == smollm2.NAME:
        return Source(name, "directory", smollm2.directory())
    if name.startswith(SIMULATED):
        raise UserError(f"MODEL {name}: simulated models answer `longctx needle` only")
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise UserError(f"MODEL {name}: no such GGUF file: check the path")
        return Source(name, "gguf", path.parent, path.name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            ggufs = sorted(entry.name for entry in path.glob("*.gguf"))
            hint = f": name the file, {path / ggufs[0]}" if ggufs else ": is it a model directory?"
            raise UserError(f"MODEL {name}: the directory holds no config.json{hint}")
        return Source(name, "directory", path)
    if path.is_file():
        raise UserError(
            f"MODEL {name}: neither a model directory nor a .gguf file: name one of these"
        )
    # `models/x` could be a hub id too; where the folder `models` exists, a path was meant.
    parts = name.split("/")
    looks_like_path = name.startswith((".", "/", "~")) or len(parts) != 2 or Path(parts[0]).is_dir()
    if looks_like_path:
        raise UserError(f"MODEL {name}: no such directory: check the path, or give a hub id (a/b)")
    return Source(name, "hub", _download(name, weights=weights))


def _download(name: str, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    patterns = _SMALL_FILES + (["*.safetensors"] if weights else [])
    try:
        return Path(
            snapshot_download(name, allow_patterns=patterns, ignore_patterns=_SKIPPED_FILES)
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"MODEL {name}: not a local directory, and the hub did not give it "
            f"({_first_line(error)}): check the name, or download it and name the directory"
        ) from error


def load_config(source: Source) -> PretrainedConfig:
    """The configuration, checked to be one of a decoder-only language model."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if not source.gguf_file:
        checks.check_config(source.name, source.directory)
    try:
        with _quiet_transformers():
            config = AutoConfig.from_pretrained(
                source.directory, trust_remote_code=False, **source.load_arguments
            )
    except Exception as error:
        # transformers answers damage with OSError, ValueError, KeyError or TypeError as it falls.
        remedy = "restore the file, or download the model again"
        if source.gguf_file and "not supported" in str(error):
            remedy = "name a model that generates text, of an architecture that transformers reads"
        raise UserError(
            f"MODEL {source.name}: its configuration cannot be read ({_first_line(error)}): "
            f"{remedy}"
        ) from error

    causal_classes = _flatten(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    named = list(config.architectures or [])
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not known or config.is_encoder_decoder or (named and not causal_classes & set(named)):
        what = ", ".join(named) or config.model_type
        raise UserError(
            f"MODEL {source.name}: {what} is not a causal language model: "
            "name one that generates text (…ForCausalLM)"
        )
    return config


def generation_config(source: Source) -> Any:
    """What the model's makers sample with; None where they say nothing."""
    from transformers import GenerationConfig

    if not (source.directory / "generation_config.json").is_file():
        return None
    return GenerationConfig.from_pretrained(source.directory)


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer; it must be a fast one, because needles are found by character offsets."""
    from transformers import AutoTokenizer

    where = "in the file" if source.gguf_file else "beside the weights"
    remedy = "put the model's tokenizer.json there"
    if source.gguf_file:  # nothing beside it is read
        remedy = "name a GGUF file that holds its tokenizer, or the model's own directory"
    else:
        checks.refuse_pointers(source.name, source.directory, *_TOKENIZER_FILES)
    try:
        with _quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(
                source.directory, trust_remote_code=False, **source.load_arguments
            )
            usable = bool(tokenizer("a needle", add_special_tokens=False)["input_ids"])
    except Exception as error:
        raise UserError(
            f"MODEL {source.name}: no usable tokenizer {where} ({_first_line(error)}): {remedy}"
        ) from error
    if not usable:
        raise UserError(
            f"MODEL {source.name}: no usable tokenizer {where} (its vocabulary is empty): {remedy}"
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"MODEL {source.name}: its tokenizer {type(tokenizer).__name__} gives no character "
            "offsets: a tokenizer.json is needed"
        )
    if source.gguf_file:
        _restore_digit_split(tokenizer, source)
    return tokenizer


def _restore_digit_split(tokenizer: PreTrainedTokenizerBase, source: Source) -> None:
    """Split digits as these vocabularies were trained; transformers' GGUF reader leaves that out.

    llama.cpp (llm_tokenizer_bpe) gives this group the split `\\p{N}` before GPT-2's; transformers
    5.23 applies GPT-2's alone, so that spaces and newlines before a digit become other tokens.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(source.weight_files()[0]).get_field("tokenizer.ggml.pre")
    split_by_digit = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"}
    if field is not None and str(field.contents()) in split_by_digit:
        backend: Any = getattr(tokenizer, "backend_tokenizer")  # noqa: B009 (base class lacks it)
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )


def load_model(
    source: Source,
    config: PretrainedConfig,
    dtype: torch.dtype,
    device_map: str,
    quantization_config: Any = None,
) -> PreTrainedModel:
    """The weights on their devices, in eval mode. A checkpoint that lacks weights is an error.

    `quantization_config`: transformers' own, where it is to quantize (quantize.py).
    """
    from transformers import AutoModelForCausalLM

    from longctx.models.placed import over_gpus

    placed = device_map == "auto" and source.kind != "gguf"
    where = over_gpus(source.name, config, dtype) if placed else device_map
    extra: dict[str, Any] = dict(source.load_arguments)
    if source.kind == "gguf":
        with contextlib.suppress(ImportError):  # before GgufConfig, dequantizing was the only way
            from transformers import GgufConfig

            extra["quantization_config"] = GgufConfig(dequantize=True)
    else:
        extra["config"] = config
        if quantization_config is not None:
            extra["quantization_config"] = quantization_config
        if not source.weight_files():
            raise UserError(
                f"MODEL {source.name}: no .safetensors weights in {source.directory}: "
                "convert or download them (pickled weights are not read)"
            )
    try:
        with _quiet_transformers():
            model, report = AutoModelForCausalLM.from_pretrained(
                source.directory,
                dtype=dtype,
                device_map=where,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below, where the library tells no sizes
                **extra,
            )
    except Exception as error:
        raise UserError(
            f"MODEL {source.name}: the weights cannot be loaded with --device-map {device_map} "
            f"({type(error).__name__}: {_first_line(error)}): check files, memory and device"
        ) from error
    if report["mismatched_keys"]:
        tensor, held, wanted = min(report["mismatched_keys"])
        raise UserError(
            f"MODEL {source.name}: {tensor} is {list(held)} in the weights, {list(wanted)} by "
            "config.json: take the config.json that belongs to these weights"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        # transformers fills these with random numbers and only warns.
        raise UserError(
            f"MODEL {source.name}: {len(missing)} weights are missing from the checkpoint "
            f"(first: {missing[0]}): download it again"
        )
    return model.eval()


def shape_of(config: PretrainedConfig) -> ModelShape:
    heads = config.num_attention_heads
    return ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
    )


def fingerprint(source: Source) -> str:
    """Identity of the weights: a sha256, or `hub:<commit>` where the hub vouches for the files."""
    if source.kind == "hub":
        return f"hub:{source.directory.name}"
    files = source.weight_files()
    whole = sum(file.stat().st_size for file in files) < _HASH_WHOLE_BELOW
    digest = hashlib.sha256()
    config = source.directory / "config.json"
    if source.kind == "directory":
        digest.update(config.read_bytes())
    for file in files:
        size = file.stat().st_size
        digest.update(json.dumps([file.name, size]).encode())
        with file.open("rb") as stream:
            if whole:
                while block := stream.read(8 << 20):
                    digest.update(block)
            else:
                for index in range(_SAMPLES):
                    stream.seek(index * max(size - _SAMPLE_BYTES, 0) // (_SAMPLES - 1))
                    digest.update(stream.read(_SAMPLE_BYTES))
    return f"{'sha256' if whole else 'sampled-sha256'}:{digest.hexdigest()}"


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Identity of what turns text into ids; the chat template is hashed apart from it."""
    backend: Any = getattr(tokenizer, "backend_tokenizer")  # noqa: B009 (base class lacks it)
    return hashlib.sha256(backend.to_str().encode()).hexdigest()


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id that ends an answer: generation_config may hold one or a list, or be missing."""
    found: set[int] = set()
    for value in (getattr(model.generation_config, "eos_token_id", None), tokenizer.eos_token_id):
        if isinstance(value, int):
            found.add(value)
        elif isinstance(value, (list, tuple)):
            found.update(value)
    return frozenset(found)


@contextlib.contextmanager
def _quiet_transformers() -> Any:
    """No progress bars of the library inside ours, and no advice meant for programmers."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _flatten(values: Any) -> set[str]:
    return {name for value in values for name in ([value] if isinstance(value, str) else value)}


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return textwrap.shorten(text.splitlines()[0], 200, placeholder=" …")
