"""The hooks of git that see the message of a commit, and may change it or refuse."""

from collections.abc import Callable
from pathlib import Path

import pytest

from niwfctl.errors import GitError
from niwfctl.repository import Repository

Add = Callable[..., str]


def hook(repository: Repository, name: str, script: str) -> None:
    path = repository.git.folder / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def message(repository: Repository, revision: str = "HEAD") -> str:
    return repository.git.plain("log", "-1", "--format=%B", revision).strip()


def test_every_commit_has_the_message_that_the_hooks_made_of_it(
    committed: Repository, add: Add
) -> None:
    committed.git.plain("branch", "-M", "main")
    committed.git.plain("branch", "side")
    hook(committed, "prepare-commit-msg", 'printf "from: %s\\n" "$2" >> "$1"')
    hook(committed, "commit-msg", 'echo "Change-Id: I1" >> "$1"')
    add(committed, "x", 0.1)
    assert message(committed) == "Add x\nfrom: message\nChange-Id: I1"
    committed.remove("x", "Weg damit: äöü")
    assert message(committed) == "Weg damit: äöü\nfrom: message\nChange-Id: I1"
    committed.git.checkout("side")
    add(committed, "y", 0.2)
    committed.git.checkout("main")
    committed.merge("side")
    assert message(committed) == "Merge side\nfrom: merge\nChange-Id: I1"


@pytest.mark.parametrize("name", ["prepare-commit-msg", "commit-msg"])
@pytest.mark.parametrize(
    ("script", "words"),
    [('echo "no sign-off in: $(cat "$1")" >&2; exit 1', "no sign-off in: Drop"), (': > "$1"', "")],
    ids=["refused", "emptied"],
)
def test_a_message_that_a_hook_refuses_or_empties_is_not_committed(
    committed: Repository, name: str, script: str, words: str
) -> None:
    hook(committed, name, script)
    head = committed.git.head()
    with pytest.raises(GitError, match=words or "emptied the commit message"):
        committed.remove("apple", "Drop")
    assert committed.git.head() == head and committed.changes() == []
    assert not list(Path(committed.private / "tmp").iterdir())
