"""`longctx perplexity`: options to a run. What can be said is in options/perplexity.py."""

from __future__ import annotations

from longctx.commands.command import command
from longctx.options.perplexity import PerplexityOptions
from longctx.runs.settle import settle_perplexity


@command
def perplexity(options: PerplexityOptions) -> int:
    """Measure how well a text is predicted at each length, per method, on the same tokens."""
    settled = settle_perplexity(options)  # before the libraries are loaded
    from longctx.runs.perplexity import run

    return run(settled)
