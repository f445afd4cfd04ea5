"""What pipelines check out: pull requests, merges, and clones that lack some of the history."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import run_git as git
from histories import on, revise

from niwfctl.errors import UnknownName
from niwfctl.layout import OBJECTS
from niwfctl.repository import Repository
from niwfctl.repository.clone import clone
from niwfctl.repository.upkeep import check_all

pytestmark = pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")

Add = Callable[..., str]
STRAY = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 63}1\nsize 8\n"


@pytest.fixture
def branched(shared: Repository, add: Add) -> Repository:
    """`main` has a second version of `apple`, merged into `side`, which forked before the first."""
    before = shared.git.resolve("HEAD~1")
    revise(shared, "apple", 1)
    on(shared, "side", before)
    add(shared, "pear", 0.2)
    shared.merge("main")
    shared.git.checkout("main")
    shared.remotes.push("origin", ["main", "side"])
    return shared


def shallow(remote: Path, folder: Path, *options: str) -> Repository:
    git(folder.parent, "clone", "-q", *options, remote.as_uri(), folder.name)
    return Repository.open(folder)


def test_objects_of_a_commit_that_was_merged_are_found_wherever_they_came_in(
    branched: Repository, remote: Path, tmp_path: Path
) -> None:
    one = shallow(remote, tmp_path / "copy", "--single-branch", "--branch", "side")
    assert "apple" not in one.atlas("HEAD^1~1")
    assert one.verify().ok and one.verify(revision="HEAD^2~1").ok


def test_a_diff_in_a_shallow_clone_does_not_take_its_parent_for_nothing(
    branched: Repository, remote: Path, tmp_path: Path
) -> None:
    one = shallow(remote, tmp_path / "copy", "--depth=1")
    with pytest.raises(UnknownName, match="a parent that this shallow clone lacks"):
        one.diff()


def test_a_partial_clone_is_whole(branched: Repository, remote: Path, tmp_path: Path) -> None:
    git(remote, "config", "uploadpack.allowFilter", "true")
    part = shallow(remote, tmp_path / "copy", "--filter=blob:none")
    assert check_all(part).damage == ()


def test_a_pointer_that_leads_nowhere_is_found_before_it_breaks_every_clone(
    shared: Repository, tmp_path: Path
) -> None:
    assert all(
        check.check != "objects" for check in shared.verify().checks if check.subject == "atlas"
    )
    file = shared.path / OBJECTS / f"{'0' * 63}1.safetensors"
    file.write_text(STRAY)
    git(shared.path, "add", str(file))
    git(shared.path, "commit", "-q", "-m", "A stray")
    (failed,) = (check for check in shared.verify().checks if not check.ok)
    assert (failed.subject, failed.check) == ("atlas", "objects")
    assert "no capability names them, so `git rm` them" in failed.detail


def test_a_pointer_that_no_capability_names_any_more_may_stay(shared: Repository) -> None:
    pointers = {path.name: path.read_text() for path in (shared.path / OBJECTS).iterdir()}
    shared.remove("apple")
    for name, text in pointers.items():
        (shared.path / OBJECTS / name).write_text(text)
    git(shared.path, "add", OBJECTS)
    git(shared.path, "commit", "-q", "-m", "Back again")
    (told,) = (
        check
        for check in shared.verify().checks
        if check.subject == "atlas" and check.check == "objects"
    )
    assert told.ok and "3 pointers that no capability names" in told.detail
    assert clone(str(shared.path), shared.path.parent / "copy", lazy=True).verify().ok
