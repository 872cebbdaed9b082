"""What takes time: one thing is computed at a time, the rest waits in line and knows its place.

A task that fails is a line for whoever asked for it; the thread, the other tasks and the server go on. What a thread
cannot survive is the end of its process: a fault inside a library, or the system's out-of-memory killer.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from umamba2.errors import Cancelled, InputError
from umamba2.messages import unexpected

MOST_WAITING = 50  # tasks in line, of everybody together
_MOST_REMEMBERED = 200  # finished tasks that can still be asked for
QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"


class Busy(InputError):
    """More waits in line than is sensible."""


def _nothing() -> None:
    pass


@dataclass(eq=False)
class Task:
    """Something to compute.

    Attributes:
        what: What it is, for people.
        owner: The study that it belongs to.
        work: What to do; it gets the task, for `watch`, and returns what JSON can hold.
        name: What it is asked for by.
        state: One of the five words above.
        done, total: How far it is, in steps of whatever it does; 0 of 0: not known.
        each: What a step is, such as a mesh; "" where it needs no name.
        result: What ``work`` returned.
        error: One line, if it failed.
        version: Grows whenever any of this changes.
        at_end: Called once nothing will happen any more, also if the task is cancelled before it has begun.
    """

    what: str
    owner: str
    work: Callable[[Task], dict[str, Any]]
    name: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: str = QUEUED
    done: int = 0
    total: int = 0
    each: str = ""
    result: dict[str, Any] | None = None
    error: str = ""
    version: int = 0
    asked_to_stop: bool = False
    at_end: Callable[[], None] = _nothing

    @property
    def over(self) -> bool:
        """Whether nothing will happen any more."""
        return self.state in (DONE, FAILED, CANCELLED)

    def watch(self, done: int, total: int) -> None:
        """Note how far it is. Raises Cancelled if it shall end."""
        if self.asked_to_stop:
            raise Cancelled(self.what)
        self.done, self.total = done, total
        self.version += 1

    def _becomes(self, state: str) -> None:
        if state not in (QUEUED, RUNNING):
            self.work = _forgotten  # with what it holds
            at_end, self.at_end = self.at_end, _nothing
            with suppress(OSError):
                at_end()
        self.state = state
        self.version += 1


class Line:
    """The line of tasks, and the thread that works on the first."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[str, Task] = OrderedDict()  # by name, in the order of asking
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="umamba2-line", daemon=True)
        self._thread.start()

    def add(
        self, what: str, owner: str, work: Callable[[Task], dict[str, Any]], at_end: Callable[[], None] = _nothing
    ) -> Task:
        """Put a task at the end of the line. Raises Busy if the line is full."""
        task = Task(what, owner, work, at_end=at_end)
        with self._changed:
            if len(self._waiting()) >= MOST_WAITING:
                raise Busy(f"{what}: found {MOST_WAITING} tasks waiting, expected fewer; try again later")
            self._tasks[task.name] = task
            for name in [name for name, old in self._tasks.items() if old.over][:-_MOST_REMEMBERED]:
                del self._tasks[name]
            self._changed.notify_all()
        return task

    def find(self, name: str) -> Task | None:
        """The task of that name."""
        return self._tasks.get(name)

    def of(self, owner: str) -> list[Task]:
        """The tasks of a study that are not over, in their order."""
        with self._changed:
            return [task for task in self._tasks.values() if task.owner == owner and not task.over]

    def place(self, task: Task) -> int:
        """How many tasks come before this one."""
        with self._changed:
            ahead = [other for other in self._tasks.values() if not other.over]
        return ahead.index(task) if task in ahead else 0

    def cancel(self, task: Task) -> None:
        """Have a task end as soon as it can."""
        with self._changed:
            task.asked_to_stop = True
            if task.state == QUEUED:
                task._becomes(CANCELLED)

    def end(self, patience: float = 5.0) -> None:
        """Cancel everything and let the thread end; wait so many seconds for it."""
        with self._changed:
            self._ending = True
            for task in self._tasks.values():
                task.asked_to_stop = True
            self._changed.notify_all()
        self._thread.join(patience)

    def _waiting(self) -> list[Task]:
        return [task for task in self._tasks.values() if task.state == QUEUED]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending or self._waiting())
                if self._ending:
                    return
                task = self._waiting()[0]
                task._becomes(RUNNING)
            _do(task)


def _do(task: Task) -> None:
    try:
        task.result = task.work(task)
        state = DONE
    except Cancelled:
        state = CANCELLED
    except InputError as error:
        task.error, state = str(error), FAILED
    except MemoryError:
        task.error, state = f"{task.what}: found too little memory, expected more; close other scans", FAILED
    except BaseException as error:  # the thread must outlive whatever a task does
        task.error, state = f"{task.what}: found {unexpected(error)}, expected to finish", FAILED
    task._becomes(state)


def _forgotten(_: Task) -> dict[str, Any]:
    raise AssertionError("a task is done once")


def wait_for_change(task: Task, version: int, seconds: float) -> bool:
    """Whether a task has another version than this one, within so many seconds; for tests and scripts."""
    end = time.monotonic() + seconds
    while task.version == version and time.monotonic() < end:
        time.sleep(0.01)
    return task.version != version
