"""A repository in which the user may change nothing: told, whoever of niwfctl and git meets it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from niwfctl.git.process import blame_disk
from niwfctl.repository import Repository

NIWFCTL = "import sys; from niwfctl.cli.main import main; sys.argv[0] = 'niwfctl'; main()"
# root without the right to write everywhere
POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()


@pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")
def test_what_git_may_not_write_is_told_as_closed(committed: Repository, tmp_path: Path) -> None:
    if POWERLESS and subprocess.run([*POWERLESS, "true"], check=False).returncode:
        pytest.skip("root may write everywhere, and setpriv is not allowed here")
    git, remote = committed.git.plain, tmp_path / "remote.git"
    subprocess.run(["git", "init", "-q", "--bare", remote], check=True)
    git("remote", "add", "origin", str(remote))
    committed.remotes.push("origin")
    fetched = tmp_path / "fetched"
    shutil.copytree(committed.path, fetched)
    shutil.rmtree(fetched / ".git" / "lfs" / "objects")
    committed.rename("apple", "pear")
    committed.remotes.push("origin")
    folders = [path for path in (fetched, *fetched.rglob("*")) if path.is_dir()]
    files = [path for path in fetched.rglob("*") if path.is_file()]
    for path in (*files, *folders):
        path.chmod(0o555)
    try:
        for command in (
            ["tag", "new"],
            ["tag", "-m", "x", "noted"],
            ["branch", "new"],
            ["remote", "add", "other", str(tmp_path)],
            ["fetch"],
            ["verify", "apple"],
            ["rm", "apple"],
        ):
            line = [*POWERLESS, sys.executable, "-c", NIWFCTL, "-C", fetched, *command]
            done = subprocess.run(line, capture_output=True, text=True, check=False)
            said = (command, done.stdout, done.stderr)
            assert (done.returncode, done.stderr.count("is closed to you")) == (12, 1), said
    finally:
        for path in folders:
            path.chmod(0o755)


@pytest.mark.parametrize(
    "said",
    [
        "git@example.org: Permission denied (publickey).\nfatal: Could not read from remote.",
        "git@example.org: Permission denied (publickey,password).",
        "git@example.org: Permission denied (keyboard-interactive).",
        "Permission denied, please try again.",
        "remote: error: cannot open './x': Permission denied",
        "warning: unable to access '/home/ada/.config/git/ignore': Permission denied",
    ],
)
def test_what_a_remote_denies_is_no_matter_of_this_disk(said: str) -> None:
    blame_disk(said)


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ("fatal: cannot lock ref 'x': Unable to create '/a b/x.lock': Permission denied", "/a b"),
        ("error: cannot open '.git/FETCH_HEAD': Permission denied", ".git/FETCH_HEAD"),
        ("error: could not lock config file .git/config: Permission denied", ".git/config"),
        ('error trying to create it in "/a": mkdir /a b/c: permission denied', "/a b/c"),
    ],
)
def test_the_place_that_is_closed_is_named_as_git_names_it(said: str, where: str) -> None:
    with pytest.raises(PermissionError) as error:
        blame_disk(said)
    assert error.value.filename == where
