"""What is wrong with a model's files, found without loading weights: one line that names file and
remedy.

Reads config.json as it stands, the heads of .safetensors files and the index of their shards. Does
not know methods; `source.py` finds the files.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from longctx.errors import UserError

_POINTER = b"version https://git-lfs.github.com/spec/"
_INDEX = "model.safetensors.index.json"
_LONGEST_HEAD = 100 << 20  # safetensors' own limit
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "lm_head.weight")
_QWEN2_WINDOW = 32768  # what the family was trained on; attention/config.py has the rule


class _Tensor(NamedTuple):
    file: str
    name: str
    shape: list[int]


class ModelFiles(Protocol):
    """Where a model was found."""

    @property
    def name(self) -> str: ...
    @property
    def directory(self) -> Path: ...
    @property
    def gguf_file(self) -> str | None: ...
    def weight_files(self) -> list[Path]: ...


def check_model(
    source: ModelFiles, config: Any, tokenizer: Any, original_length: int | None
) -> None:
    """What of a model can be known to fail before its weights are loaded.

    Raises:
        UserError: names file and remedy.
    """
    if source.gguf_file is None:
        check_window(source.name, source.directory, original_length)
        check_weights(source.name, source.directory, source.weight_files(), config)
    check_tokenizer(source.name, tokenizer, config)


def check_config(name: str, directory: Path) -> None:
    """config.json as it stands, before transformers makes something of it.

    Raises:
        UserError: a mark before it, a pointer instead of it, a rotary that cannot be computed.
    """
    file = directory / "config.json"
    data = file.read_bytes()
    if data.startswith(codecs.BOM_UTF8):
        raise UserError(
            f"MODEL {name}: {file} begins with a byte order mark: save it as UTF-8 without one"
        )
    _refuse_pointer(name, file)
    rope = _rope(data)
    if not rope:
        return
    kind = rope.get("rope_type", rope.get("type", "default"))
    known = _rope_types()
    if kind not in known:
        raise UserError(
            f"MODEL {name}: rope type {kind!r} in {file} is not supported: only "
            f"{', '.join(sorted(known))} are"
        )
    factor = rope.get("factor")
    if isinstance(factor, bool) or not isinstance(factor, int | float | None):
        raise UserError(
            f"MODEL {name}: the rope factor in {file} is {json.dumps(factor)}, not a number: write "
            "it without quotes"
        )
    if factor is not None and not factor >= 1:
        raise UserError(
            f"MODEL {name}: the rope factor in {file} is {factor:g}: it must be at least 1, the "
            "share by which the trained window is extended"
        )


def check_window(name: str, directory: Path, original_length: int | None) -> None:
    """
    Raises:
        UserError: a YaRN config that does not say what the model was trained on.
    """
    from longctx.attention.config import QWEN2_FAMILY  # with it comes torch

    file = directory / "config.json"
    if original_length is not None or not file.is_file():
        return
    config, rope = _json(file.read_bytes()), _rope(file.read_bytes())
    if rope.get("rope_type", rope.get("type")) != "yarn":
        return
    if rope.get("original_max_position_embeddings") or config.get("dual_chunk_attention_config"):
        return
    longest = config.get("max_position_embeddings")
    if config.get("model_type") in QWEN2_FAMILY and longest == _QWEN2_WINDOW:
        return
    raise UserError(
        f"MODEL {name}: {file} has YaRN without original_max_position_embeddings, so whether "
        f"max_position_embeddings {longest} is the trained window or the extended one is not "
        "known: write it there, or give --original-length"
    )


def check_weights(name: str, directory: Path, files: list[Path], config: Any) -> None:
    """
    Raises:
        UserError: files that are missing, cut off or pointers, or of another size than the config
            says.
    """
    index = directory / _INDEX
    if files and index.is_file():
        _refuse_pointer(name, index)
        shards = sorted(set(_json(index.read_bytes()).get("weight_map", {}).values()))
        missing = [shard for shard in shards if not (directory / shard).is_file()]
        if missing:
            raise UserError(
                f"MODEL {name}: {len(missing)} of {len(shards)} files that {_INDEX} names are not "
                f"there (first: {missing[0]}): download them"
            )
    for file in files:
        if file.suffix.lower() == ".safetensors":
            _refuse_pointer(name, file)
            for tensor in _tensors(name, file):
                _check_rows(name, tensor, config)


def check_tokenizer(name: str, tokenizer: Any, config: Any) -> None:
    """
    Raises:
        UserError: it has ids that the model has no embedding of.
    """
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= config.vocab_size:
        surplus = sorted(
            word for word, id in tokenizer.get_vocab().items() if id >= config.vocab_size
        )
        shown = f"{', '.join(map(repr, surplus[:2]))}{' …' if len(surplus) > 2 else ''}"
        raise UserError(
            f"MODEL {name}: its tokenizer has ids up to {highest}, its embedding "
            f"{config.vocab_size} rows: take {shown} out of tokenizer.json, or resize the "
            "embedding (resize_token_embeddings)"
        )


def is_pointer(file: Path) -> bool:
    """Whether Git LFS left a few lines in place of the file."""
    try:
        with file.open("rb") as opened:
            return opened.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def _refuse_pointer(name: str, file: Path) -> None:
    if is_pointer(file):
        raise UserError(
            f"MODEL {name}: {file} is a Git LFS pointer, not the file itself: run `git lfs pull` "
            "there, or download it again"
        )


def refuse_pointers(name: str, directory: Path, *files: str) -> None:
    """
    Raises:
        UserError: one of the files is a pointer.
    """
    for file in files:
        _refuse_pointer(name, directory / file)


def _tensors(name: str, file: Path) -> Iterator[_Tensor]:
    """The tensors of a file by its head: 8 bytes of length, JSON, and then numbers."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > _LONGEST_HEAD:
            return  # loading says what is wrong
        head = opened.read(length)
    told = _json(head) if len(head) == length else None
    if told == {}:
        return
    needed = 8 + length
    if told is not None:
        ends = [about["data_offsets"][1] for key, about in told.items() if key != "__metadata__"]
        needed += max(ends, default=0)
    if size < needed:
        more = "" if told is not None else " at least"
        raise UserError(
            f"MODEL {name}: {file} is cut off: it has {size:,} of{more} {needed:,} bytes: download "
            "it again"
        )
    for key, about in (told or {}).items():
        if key != "__metadata__":
            yield _Tensor(file.name, key, about["shape"])


def _check_rows(name: str, tensor: _Tensor, config: Any) -> None:
    if not tensor.name.endswith(_EMBEDDINGS) or len(tensor.shape) != 2:
        return
    if tensor.shape[0] != config.vocab_size:
        raise UserError(
            f"MODEL {name}: {tensor.name} in {tensor.file} has {tensor.shape[0]} rows, config.json "
            f"says vocab_size {config.vocab_size}: take the config.json that belongs to these "
            "weights"
        )


def _rope(data: bytes) -> Mapping[str, Any]:
    """rope_parameters, or rope_scaling of older configs; {} where there is none of one rotary."""
    config = _json(data)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    nested = not isinstance(rope, dict) or any(isinstance(each, dict) for each in rope.values())
    return {} if nested else rope


def _rope_types() -> set[str]:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    return {"default", *ROPE_INIT_FUNCTIONS}


def _json(data: bytes) -> dict[str, Any]:
    """An object; {} of anything else, which transformers will name."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
