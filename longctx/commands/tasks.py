"""`longctx tasks`: one line for each task that exists."""

from __future__ import annotations

import json

from longctx.commands.command import command
from longctx.options.shared import JsonOption


@command
def tasks(options: JsonOption) -> None:
    """List the tasks, one line each."""
    from longctx.eval.tasks import TASKS

    told = {name: task.about.summary for name, task in TASKS.items()}
    if options.json:
        print(json.dumps(told))
    else:
        width = max(map(len, told))
        for name, words in told.items():
            print(f"{name:<{width}}  {words}")
