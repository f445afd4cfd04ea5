"""Merging manifests with git alone: right, or a conflict, which niwfctl's merge then settles."""

import shutil
import subprocess
from pathlib import Path

import pytest
from faults import run_git
from histories import on, place

from niwfctl.errors import Conflict
from niwfctl.repository import Repository
from niwfctl.repository.merge import Resolution


@pytest.fixture(scope="session")
def _forked(tmp_path_factory: pytest.TempPathFactory, _trained: Path) -> Path:
    folder = shutil.copytree(_trained, tmp_path_factory.mktemp("forked") / "repository")
    trained = Repository.open(folder)
    on(trained, "main", "HEAD")
    place(trained, "quartz", 10.0)
    on(trained, "extender", "main")
    place(trained, "quartz", -10.0, mode="extend")
    on(trained, "other", "main")
    place(trained, "zebra", -30.0)
    on(trained, "replacer", "main")
    place(trained, "mulher", 30.0)
    trained.remove("quartz")
    on(trained, "renamer", "main")
    trained.rename("quartz", "quarzo")
    return folder


@pytest.fixture
def forked(tmp_path: Path, _forked: Path) -> Repository:
    """`quartz` on `main`; `extender` extends it, `other` adds `zebra`.

    `replacer` adds `mulher` in place of `quartz`, which git takes for a rename, and `renamer`
    renames it.
    """
    return Repository.open(shutil.copytree(_forked, tmp_path / "forked"))


def joined(path: Path, how: str, branch: str) -> bool:
    """Whether git joins a branch to this one without a conflict; ends it if not."""
    command = {
        "merge": ("merge", "--quiet", "--no-edit", branch),
        "rebase": ("rebase", "--quiet", branch),
        "cherry-pick": ("cherry-pick", branch),
    }[how]
    done = subprocess.run(["git", "-C", path, *command], capture_output=True, check=False)
    if done.returncode:
        run_git(path, how, "--abort")
    return done.returncode == 0


@pytest.mark.parametrize("how", ["merge", "rebase", "cherry-pick"])
@pytest.mark.parametrize("side", ["replacer", "renamer"])
def test_git_alone_does_not_mix_what_both_sides_did_to_a_capability(
    forked: Repository, how: str, side: str
) -> None:
    mine, theirs = (side, "extender") if how != "rebase" else ("extender", side)
    on(forked, "trunk", mine)
    assert not joined(forked.path, how, theirs)
    if side == "renamer":
        forked.merge(theirs)
        assert [len(one.regions) for one in forked.atlas().values()] == [2]
    else:
        with pytest.raises(Conflict, match="quartz"):
            forked.merge(theirs)
        forked.merge(theirs, Resolution(side="ours" if mine == side else "theirs"))
        assert list(forked.atlas()) == ["mulher"]
    assert forked.verify().ok


@pytest.mark.parametrize("how", ["merge", "rebase", "cherry-pick"])
@pytest.mark.parametrize("side", ["extender", "replacer", "renamer"])
def test_git_alone_joins_changes_of_different_capabilities(
    forked: Repository, how: str, side: str
) -> None:
    on(forked, "trunk", side)
    alone = forked.atlas()
    assert joined(forked.path, how, "other")
    found = forked.atlas()
    assert found.keys() == {*alone, "zebra"} and forked.verify().ok
    assert all(found[name].unrouted == alone[name].unrouted for name in alone)


def test_a_repository_without_the_rule_merges_as_before(forked: Repository) -> None:
    for branch in ("extender", "renamer"):
        on(forked, branch, branch)
        file = forked.path / ".gitattributes"
        file.write_text(file.read_text().replace("capabilities/*.json -merge\n", ""))
        run_git(forked.path, "commit", "--quiet", "--all", "-m", "As earlier versions made it")
    assert joined(forked.path, "merge", "extender")
    assert len(forked.capability("quarzo").regions) == 2 and forked.verify().ok
