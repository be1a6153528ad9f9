"""The embedded model: a tiny Qwen2, trained from nothing to find needles within 512 tokens.

Its weights lie in `WEIGHTS`, with a model card. This package also holds what trained it.
Imports nothing heavy.
"""

from pathlib import Path

EMBEDDED = "embedded"  # its name where a model is asked for
WEIGHTS = Path(__file__).parent / "weights"
CARD = WEIGHTS / "README.md"
