"""longctx: YaRN and Dual Chunk Attention over FlashAttention, served and measured.

Importing this package loads nothing heavy: torch is imported by the subpackages that need it.
"""

from pathlib import Path

__version__ = "0.1.0"

# In a clone `attention/`, `eval/` and `plots/` lie beside this folder, with links to them in it
# where the checkout has symbolic links.
if not (Path(__file__).parent / "attention").is_dir():
    __path__.append(str(Path(__file__).parent.parent))
