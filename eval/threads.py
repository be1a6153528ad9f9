"""Work on several items at once, answers in the order in which they come.

The caller's thread takes items and gets results; nothing but `work` runs beside it. Threads are
daemons: an interrupt does not wait for an answer that may never come.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def as_completed(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[tuple[T, R]]:
    """Each item with its result; an item is taken only when a thread is free for it.

    Whatever `work` raises is raised here. With one thread there is none: work is done in place.
    """
    if threads == 1:
        for item in items:
            yield item, work(item)
        return
    todo: queue.SimpleQueue[T | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[T, R | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        while (item := todo.get()) is not None:
            try:
                done.put((item, work(item), None))
            except BaseException as error:
                done.put((item, None, error))

    def next_result() -> tuple[T, R]:
        item, result, error = done.get()
        if error is not None:
            raise error
        return item, result  # type: ignore[return-value]  # without an error there is one

    source = iter(items)
    started = in_flight = 0
    try:
        while True:
            if in_flight == threads:
                yield next_result()
                in_flight -= 1
            try:
                item = next(source)
            except StopIteration:
                break
            if started < threads:
                threading.Thread(target=run, daemon=True).start()
                started += 1
            todo.put(item)
            in_flight += 1
        for _ in range(in_flight):
            yield next_result()
    finally:
        for _ in range(started):
            todo.put(None)
