"""What is written down of a command: what was typed, and of a program only what it asked for."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK
from typer.testing import Result

from niwfctl.errors import Busy
from niwfctl.repository import Repository
from niwfctl.repository.lock import lock

SECRET = ["program.py", "--token", "secret"]


def last_command(repository: Repository) -> str:
    return repository.operations.entries()[-1].command


def test_the_log_has_a_command_as_it_was_typed(
    committed: Repository, niwfctl: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", SECRET)
    assert niwfctl("-C", committed.path, "mv", "apple", "pear", "-m", "A pear").exit_code == 0
    assert last_command(committed) == f"niwfctl -C {committed.path} mv apple pear -m 'A pear'"


def test_the_log_has_what_a_program_asked_for_and_not_its_command_line(
    committed: Repository, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", SECRET)
    committed.rename("apple", "pear")
    assert last_command(committed) == "Rename apple to pear"
    committed.train("plum", data, QUICK)
    assert last_command(committed) == "Train plum"
    committed.commit("plum", "Plums\n\nat last")
    assert last_command(committed) == "Plums"


def test_who_holds_a_lock_is_named_without_its_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", SECRET)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock(tmp_path / "lock", "test"):
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    with pytest.raises(Busy) as refusal, lock(tmp_path / "lock", "test"):
        pass
    done.set()
    holder.join()
    assert "a program of yours" in str(refusal.value) and "secret" not in str(refusal.value)
