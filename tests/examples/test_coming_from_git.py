"""The page for those who come from git: every command in its table works."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from histories import on, revise, stored
from typer.testing import Result

from niwfctl.repository import Repository
from niwfctl.training.checkpoint import load, save

PAGE = Path(__file__).parents[2] / "docs" / "git.md"
ROWS = [line.split("|")[2] for line in PAGE.read_text("utf-8").splitlines() if line[:2] == "| "]
CELLS = [found for row in ROWS if (found := re.findall(r"`([^`]*)`", row))]
BLOCKS = re.findall(r"(?ms)^```\n(.*?)^```", PAGE.read_text("utf-8"))
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
    niwfctl: Callable[..., Result],
    lived_in: Repository,
    data: Path,
    tmp_path: Path,
    commands: list[str],
) -> None:
    for command in commands:
        name = "fresh" if any(one in command for one in WAITING) else "apple"
        values = {"NAME": "plum" if "train " in command else name, "NEW": "new", "REV": "HEAD~2"}
        values |= {"BRANCH": "apart" if "rebase" in command else "side"}
        values |= {"FILE": str(data), "MESSAGE": "Why", "BUNDLE": str(tmp_path / "bundle")}
        for placeholder, value in values.items():
            command = re.sub(rf"\b{placeholder}\b", value, command)
        program, *arguments = shlex.split(command)
        if program == "git":
            subprocess.run(["git", "-C", lived_in.path, *arguments], check=True)
        else:
            done = niwfctl("-C", lived_in.path, *arguments)
            assert done.exit_code == 0, done.output
    assert lived_in.verify().ok


@pytest.mark.parametrize(("block", "where"), [(0, "../small"), (1, ".")], ids=["bundle", "reset"])
def test_old_versions_are_freed_as_the_page_says(
    niwfctl: Callable[..., Result],
    committed: Repository,
    monkeypatch: pytest.MonkeyPatch,
    block: int,
    where: str,
) -> None:
    kept = committed.git.head()
    for revision in (1, 2, 3):
        revise(committed, "apple", revision)
    committed.compose("apple", "jam")
    config = committed.path / "niwf.toml"
    config.write_text(config.read_text() + "\n[gates.apple]\ndata = 'apple.jsonl'\n")
    committed.git.plain("commit", "--quiet", "--all", "--message", "A gate")
    atlas, settings, size = committed.atlas(), committed.config, stored(committed.store)
    assert niwfctl("-C", committed.path, "gc", "--keep", 0).exit_code == 0
    assert stored(committed.store) == size  # or the page tells what need not be done
    monkeypatch.chdir(committed.path)
    text = BLOCKS[block].replace("NAME NAME", "apple jam").replace("KEPT", kept)
    for line in text.splitlines():
        program, *arguments = shlex.split(line)
        if program == "niwfctl":
            done = niwfctl(*arguments)
            assert done.exit_code == 0, done.output
        else:
            subprocess.run([program, *arguments], check=True)
    left = Repository.open(committed.path / where)
    assert left.atlas() == atlas and left.config == settings and left.verify().ok
    assert stored(left.store) < size and not left.changes()
    assert len(left.git.log("HEAD", "%H").split()) < 5
