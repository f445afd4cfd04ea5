"""The page for those who come from git: every command in its table works."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from histories import on, revise
from typer.testing import Result

from niwfctl.repository import Repository
from niwfctl.training.checkpoint import load, save

PAGE = Path(__file__).parents[2] / "docs" / "git.md"
ROWS = [line.split("|")[2] for line in PAGE.read_text("utf-8").splitlines() if line[:2] == "| "]
CELLS = [found for row in ROWS if (found := re.findall(r"`([^`]*)`", row))]
WAITING = ("commit NAME", "rm --training NAME")  # where NAME is of a training


@pytest.fixture(scope="session")
def _lived_in(tmp_path_factory: pytest.TempPathFactory, _trained: Path) -> Path:
    folder = shutil.copytree(_trained, tmp_path_factory.mktemp("lived-in") / "repository")
    repository = Repository.open(folder)
    run, tensors = load(repository.trainings.checkpoint("apple"))

    def wait(name: str) -> None:
        record = run.model_copy(update={"name": name, "id": name})
        save(repository.trainings.checkpoint(name), record, tensors)

    wait("fresh")
    start = repository.commit("apple", "Apples").commit
    on(repository, "side", start)
    revise(repository, "apple", 1)
    on(repository, "apart", start)
    wait("date")
    repository.commit("date", "Dates")
    on(repository, "main", start)
    revise(repository, "apple", 2)
    wait("pear")
    repository.commit("pear", "Pears")
    return folder


@pytest.fixture
def lived_in(tmp_path: Path, _lived_in: Path) -> Repository:
    """`fresh` waits; `main` is two commits after the first `apple`, which `side` changed, too.

    On `apart` there is `date`.
    """
    return Repository.open(shutil.copytree(_lived_in, tmp_path / "lived-in"))


def test_the_table_was_found() -> None:
    assert len(CELLS) > 20


@pytest.mark.parametrize("commands", CELLS, ids="; ".join)
def test_what_the_table_says_works(
    niwfctl: Callable[..., Result], lived_in: Repository, data: Path, commands: list[str]
) -> None:
    for command in commands:
        name = "fresh" if any(one in command for one in WAITING) else "apple"
        values = {"NAME": "plum" if "train " in command else name, "NEW": "new", "REV": "HEAD~2"}
        values |= {"BRANCH": "apart" if "rebase" in command else "side"}
        values |= {"FILE": str(data), "MESSAGE": "Why"}
        for placeholder, value in values.items():
            command = re.sub(rf"\b{placeholder}\b", value, command)
        program, *arguments = shlex.split(command)
        if program == "git":
            subprocess.run(["git", "-C", lived_in.path, *arguments], check=True)
        else:
            done = niwfctl("-C", lived_in.path, *arguments)
            assert done.exit_code == 0, done.output
    assert lived_in.verify().ok
