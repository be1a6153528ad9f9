"""`longctx tasks`: one line for each task that exists."""

from __future__ import annotations

from longctx import options


def tasks(json: options.Json = False) -> None:
    """List the tasks, one line each."""
    import json as json_module

    from longctx.eval.tasks import TASKS

    if json:
        print(json_module.dumps(TASKS))
    else:
        width = max(map(len, TASKS))
        for name, words in TASKS.items():
            print(f"{name:<{width}}  {words}")
