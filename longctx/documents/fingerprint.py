"""What keys and values depend on, as one hash: equal hashes, equal keys.

The kernel is not part of it, nor the machine: they differ in rounding alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longctx.attention import Scheme
from longctx.documents import disk
from longctx.models.source import Source, tokenizer_sha256

_log = logging.getLogger(__name__)

# To be raised where equal inputs give other keys than before.
_VERSION = 1
# Of a config, what says nothing of the model's numbers.
_NAMES = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")
_READ = 8 << 20


@dataclass(frozen=True)
class ModelFacts:
    """What a model was made of.

    Attributes:
        dtype: of weights and activations.
        kv_dtype: of keys and values.
        numbers: what linear layers compute in, where that is not dtype.
    """

    source: Source
    config: Any
    scheme: Scheme
    tokenizer: Any
    dtype: str
    kv_dtype: str
    numbers: str | None = None

    def fingerprint(self, bucket: int, cache: Path | None) -> str:
        """
        Args:
            bucket: what the temperature is taken at.
            cache: file of checksums that need not be taken again.

        Raises:
            OSError: weights cannot be read.
        """
        config = {
            name: value for name, value in self.config.to_dict().items() if name not in _NAMES
        }
        template = getattr(self.tokenizer, "chat_template", None)
        told = {
            "version": _VERSION,
            "weights": weights_sha256(self.source, cache),
            "config": config,
            "scheme": self.scheme.to_dict(bucket),
            "trained_length": self.scheme.trained_length,
            "dtype": self.dtype,
            "kv_dtype": self.kv_dtype,
            "tokenizer": tokenizer_sha256(self.tokenizer),
            "template": template,
        }
        if self.numbers is not None:  # what others have stored stays what it is
            told["numbers"] = self.numbers
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def weights_sha256(source: Source, cache: Path | None) -> list[str]:
    """Of every file of the weights, every byte. What has path, size, time of change and inode of
    a file that was read before is not read again.

    Raises:
        OSError: a file cannot be read.
    """
    known = _known(cache)
    found, changed = [], False
    for path in source.weight_files():
        at = path.resolve()
        state = at.stat()
        key = [state.st_size, state.st_mtime_ns, state.st_ino]
        entry = known.get(str(at))
        if not isinstance(entry, list) or entry[:3] != key or len(entry) != 4:
            known[str(at)] = entry = [*key, _sha256(at)]
            changed = True
        found.append(str(entry[3]))
    if changed and cache is not None:
        try:
            disk.replace_file(cache, json.dumps(known).encode())
        except OSError as error:  # it costs time, once more
            _log.warning("checksums of weights cannot be kept (%s)", error)
    return found


def _known(cache: Path | None) -> dict[str, Any]:
    if cache is None:
        return {}
    try:
        known = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ):
            digest.update(block)
    return digest.hexdigest()
