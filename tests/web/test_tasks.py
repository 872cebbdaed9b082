"""The line of tasks: one after the other, each with its place, and none takes the others with it."""

from __future__ import annotations

import threading

import pytest

from umamba2.errors import InputError
from umamba2.web import tasks
from umamba2.web.tasks import Line


@pytest.fixture
def line():
    made = Line()
    yield made
    made.end()


def wait(task, seconds=20.0):
    end = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if task.over:
            return task
        end.wait(0.01)
    raise AssertionError(f"{task.what} is {task.state}")


def test_one_at_a_time_in_the_order_of_asking(line):
    going, order = threading.Event(), []

    def work(name):
        def run(task):
            order.append(name)
            assert going.wait(20)
            return {"name": name}

        return run

    asked = [line.add(name, "a study", work(name)) for name in "abc"]
    while not order:
        pass
    assert [line.place(task) for task in asked] == [0, 1, 2]
    assert [task.state for task in asked] == ["running", "queued", "queued"]
    going.set()
    assert [wait(task).result for task in asked] == [{"name": name} for name in "abc"]
    assert order == ["a", "b", "c"]
    assert line.of("a study") == []


@pytest.mark.parametrize(
    ("error", "line_of_it"),
    [
        (InputError("a.mha: found nothing, expected something"), "a.mha: found nothing, expected something"),
        (MemoryError(), "job: found too little memory"),
        (ValueError("odd\nthing"), "job: found ValueError (odd thing)"),
        (SystemExit(3), "job: found SystemExit"),
        (KeyboardInterrupt(), "job: found KeyboardInterrupt"),
    ],
)
def test_a_task_that_fails_leaves_the_others_alone(line, error, line_of_it):
    def fail(task):
        raise error

    failed, fine = line.add("job", "one", fail), line.add("next", "other", lambda task: {"fine": True})
    assert wait(failed).state == "failed"
    assert failed.error.startswith(line_of_it)
    assert "\n" not in failed.error
    assert wait(fine).result == {"fine": True}


def test_cancelling_what_runs_and_what_waits(line):
    started, counted = threading.Event(), []

    def work(task):
        for step in range(10**9):
            task.watch(step, 10)
            counted.append(step)
            started.set()
            threading.Event().wait(0.005)
        return {}

    runs, waits = line.add("runs", "a", work), line.add("waits", "a", lambda task: {})
    after = line.add("after", "b", lambda task: {"here": True})
    assert started.wait(20)
    line.cancel(waits)
    assert waits.state == "cancelled"
    line.cancel(runs)
    assert wait(runs).state == "cancelled"
    assert wait(after).result == {"here": True}


def test_the_line_has_an_end(line, monkeypatch):
    monkeypatch.setattr(tasks, "MOST_WAITING", 3)
    hold = threading.Event()
    first = line.add("first", "a", lambda task: {"held": hold.wait(20)})
    while first.state == "queued":
        pass
    for _ in range(3):
        line.add("more", "a", lambda task: {})
    with pytest.raises(tasks.Busy, match="found 3 tasks waiting"):
        line.add("too many", "a", lambda task: {})
    hold.set()


def test_the_end_ends_what_runs():
    line = Line()
    running = threading.Event()

    def work(task):
        running.set()
        while True:
            task.watch(0, 0)

    task = line.add("runs", "a", work)
    assert running.wait(20)
    line.end()
    assert wait(task).state == "cancelled"
