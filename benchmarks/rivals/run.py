"""One method on one sequence: learn a task, measure all of them, keep the record, go on."""

from __future__ import annotations

import fcntl
import hashlib
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rivals.loop import answers_of
from rivals.protocol import GIVEN, Answers, Method, Setting, Task
from rivals.results import Key, Results

ROUNDS = 5  # of timing; sides take turns
TIMED = 8  # rows


def run(
    key: Key,
    make: Callable[[Setting], Method],
    setting: Setting,
    tasks: Sequence[Task],
    results: Results,
    turns: Turns | None = None,
) -> None:
    """Runs a method to the last task; resumes an earlier run of the same key.

    Args:
        turns: taken before anything heavy.
    """
    done = len(results.of(key))
    if done == len(tasks):
        return
    turns = turns or Turns(None, 0.0)
    turns.wait()
    method = make(setting)
    if not method.incremental:  # it has learned nothing so far, only gathered
        for task in tasks[:done]:
            method.learn(task)
    elif done:
        method.restore(results.kept(key, done - 1))
    for row in range(done, len(tasks)):
        turns.wait()
        record = commit(method, tasks, row)
        results.keep(key, row, method.state())
        results.append(key, record)
        print(key, tasks[row].name, record["scores"], flush=True)


def commit(method: Method, tasks: Sequence[Task], row: int) -> dict[str, object]:
    """Learns a task and measures: the record of one commit."""
    last = row == len(tasks) - 1
    seconds = method.learn(tasks[row])
    told = last or method.incremental
    return {
        "row": row,
        "task": tasks[row].name,
        "last": last,
        "lr": method.options.lr,
        "seconds": seconds,
        "parameters": method.parameters(),
        "bytes": method.bytes(),
        "scores": {way: scores(method, tasks, way) for way in method.ways} if told else {},
        "routed": routed(method, tasks[: row + 1]),
        "cost": cost(method, tasks[row]) if last else {},
        **method.report(tasks[: row + 1]),
    }


def scores(method: Method, tasks: Sequence[Task], way: str) -> dict[str, dict[str, object]]:
    """How a method answers the test rows of every task."""
    return {
        task.name: _figures(method.answers(task.test, task.name if way == GIVEN else None))
        for task in tasks
    }


def routed(method: Method, tasks: Sequence[Task]) -> dict[str, float]:
    """Share of each task's test rows that a router assigns to it; empty for methods without one."""
    found = {}
    for task in tasks:
        owners = method.owners(task.test)
        if owners is not None:
            found[task.name] = sum(owner == task.name for owner in owners) / len(owners)
    return found


def cost(method: Method, task: Task) -> dict[str, float]:
    """Time to score a batch over the bare backbone's, for each way of asking."""
    bare, rows = method.setting.load().model, task.test[:TIMED]
    ratios: dict[str, list[float]] = {way: [] for way in method.ways}
    for number in range(ROUNDS + 1):
        for way, found in ratios.items():
            name = task.name if way == GIVEN else None
            reference = _seconds(lambda: answers_of(bare, rows))
            ratio = _seconds(lambda name=name: method.answers(rows, name)) / reference
            if number:  # the first round warms up
                found.append(ratio)
    return {way: statistics.median(found) for way, found in ratios.items()}


class Turns:
    """Takes turns with others that use the same lock file, so that heavy jobs never overlap."""

    def __init__(self, lock: Path | None, seconds: float) -> None:
        """
        Args:
            lock: file to lock; None for no turns.
            seconds: how long to run before letting others in.
        """
        self._file = lock.open("a") if lock else None
        self._seconds, self._since = seconds, 0.0
        self._held = False

    def wait(self) -> None:
        """Call before heavy work: returns when it is this process's turn."""
        if self._file is None or (self._held and time.monotonic() - self._since < self._seconds):
            return
        self.give()
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._held, self._since = True, time.monotonic()

    def give(self) -> None:
        """Lets others in; call at the end."""
        if self._held:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._held = False


def _figures(answers: Answers) -> dict[str, object]:
    """The digest tells whether two measurements are equal bit for bit."""
    digest = hashlib.sha256(answers.nats.numpy().tobytes()).hexdigest()[:16]
    return {"perplexity": answers.perplexity, "accuracy": answers.accuracy, "digest": digest}


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
