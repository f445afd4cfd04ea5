"""What plain git, an odd environment, hooks and disks do to sharing, and what is then said."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults import run_git as git

from niwfctl.repository import Repository
from niwfctl.repository.remote import clone

pytestmark = pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")

NIWFCTL = "import sys; from niwfctl.cli.main import main; sys.argv[0] = 'niwfctl'; main()"


def hook(folder: Path, name: str, script: str) -> None:
    path = folder / "hooks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


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
