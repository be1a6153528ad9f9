"""The tasks that exist, each with one line. Knows nothing of how they are built."""

from __future__ import annotations

from longctx.eval import needle

TASKS: dict[str, str] = {
    needle.TASK: "one 7-digit number hidden at a depth of a long text, asked for by name "
    "(RULER's wording)",
}
