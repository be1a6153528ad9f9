"""`longctx tasks`: one line for each task that exists."""

from __future__ import annotations

from longctx.commands import options


def tasks(json: options.Json = False) -> None:
    """List the tasks, one line each."""
    import json as json_module

    from longctx.eval.tasks import TASKS

    told = {name: task.about.summary for name, task in TASKS.items()}
    if json:
        print(json_module.dumps(told))
    else:
        width = max(map(len, told))
        for name, words in told.items():
            print(f"{name:<{width}}  {words}")
