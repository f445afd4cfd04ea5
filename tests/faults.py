"""Processes to kill, and what must hold afterwards."""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from niwfctl.repository import Repository
from niwfctl.training import checkpoint

KILLED = -signal.SIGKILL


def start(work: Callable[[], object]) -> int:
    """Begins `work` in a forked process, which is faster to start than a new one.

    The process leads a group, so that it can be killed with all that it has begun.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        with suppress(OSError):  # whoever of the two comes first
            os.setpgid(child, child)
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        torch.set_num_threads(1)  # it has none of its parent's threads, and must not wait for them
        work()
        code = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Waits for a process; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def add_trainings(repository: Repository, like: str, names: list[str]) -> None:
    """More finished trainings like a given one, each with weights of its own."""
    run, tensors = checkpoint.load(repository.trainings.checkpoint(like))
    for number, name in enumerate(names, start=1):
        own = {k: v + number if k.startswith("bases.") else v for k, v in tensors.items()}
        record = run.model_copy(update={"name": name, "id": f"{name:x>12}"})
        checkpoint.save(repository.trainings.checkpoint(name), record, own)


def run_git(path: Path, *arguments: str) -> str:
    command = ["git", "-C", str(path), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def intact(path: Path) -> Repository:
    """Opens a repository and proves it valid."""
    run_git(path, "fsck", "--strict")
    assert not (path / ".git" / "index.lock").exists()
    repository = Repository.open(path)
    report = repository.verify()
    assert report.ok, report
    return repository


def settled(path: Path, names: set[str]) -> None:
    """The repository is valid, has these capabilities, and nothing is left to commit."""
    repository = intact(path)
    assert set(repository.atlas()) == names
    assert repository.uncommitted() == []
    assert run_git(path, "status", "--porcelain") == ""
