"""What plain git, an odd environment, hooks and disks do to sharing, and what is then said."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults import run_git as git
from niwfstore import ObjectStore

from niwfctl.errors import RemoteError
from niwfctl.repository import Repository
from niwfctl.repository.remote import clone

pytestmark = pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")

NIWFCTL = "import sys; from niwfctl.cli.main import main; sys.argv[0] = 'niwfctl'; main()"


def hook(folder: Path, name: str, script: str) -> None:
    path = folder / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def objects(remote: Path) -> ObjectStore:
    return ObjectStore(remote / "lfs" / "objects")


def test_the_environment_of_another_repository_changes_nothing(
    shared: Repository, remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    subprocess.run(["git", "init", "-q", other], check=True)
    git(other, "commit", "-q", "--allow-empty", "-m", "Something else")
    for name, value in (
        ("GIT_DIR", other / ".git"),
        ("GIT_WORK_TREE", other),
        ("GIT_COMMON_DIR", other / ".git"),
        ("GIT_INDEX_FILE", other / ".git" / "index"),
        ("GIT_OBJECT_DIRECTORY", other / ".git" / "objects"),
    ):
        monkeypatch.setenv(name, str(value))
    repository = Repository.open(shared.path)
    assert repository.path == shared.path and set(repository.atlas()) == {"apple"}
    assert repository.remotes.push("origin", []) == 4
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert clone(str(remote), tmp_path / "copy").verify().ok
    assert git(remote, "rev-parse", "main") == shared.git.head()


def test_a_hook_of_git_pulls_into_the_repository_that_it_goes_to(
    shared: Repository, remote: Path, tmp_path: Path
) -> None:
    shared.remotes.push("origin", [])
    site = clone(str(remote), tmp_path / "site").path
    hook(remote, "post-receive", f'cd {site} && "{sys.executable}" -c "{NIWFCTL}" pull')
    shared.rename("apple", "apples")
    shared.remotes.push("origin", [])
    assert set(Repository.open(site).atlas()) == {"apples"}


def test_what_a_pre_push_hook_says_is_shown_where_there_is_no_terminal(
    shared: Repository, remote: Path, capfd: pytest.CaptureFixture
) -> None:
    hook(shared.git.common, "pre-push", "echo told; echo warned >&2; exit 1")
    with pytest.raises(RemoteError, match=r"pre-push hook says no .*nothing was sent"):
        shared.remotes.push("origin", [])
    shown = capfd.readouterr()
    assert not shown.out and "told" in shown.err and "warned" in shown.err


def test_a_refusal_of_the_remote_does_not_claim_that_the_same_command_goes_on(
    shared: Repository, remote: Path
) -> None:
    hook(remote, "pre-receive", "exit 1")
    with pytest.raises(RemoteError, match="origin has not taken main") as refusal:
        shared.remotes.push("origin", [])
    assert "goes on" not in str(refusal.value) and not git(remote, "for-each-ref")
    assert set(objects(remote)) == set(shared.store)
