"""Remotes as a folder and over HTTP, used by niwfctl and by plain git with git-lfs alike."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import BaseServer
from threading import Thread
from wsgiref.simple_server import make_server

import pytest
from dulwich.lfs_server import run_lfs_server
from dulwich.repo import Repo
from dulwich.server import DictBackend
from dulwich.web import WSGIRequestHandlerLogger, WSGIServerLogger, make_wsgi_chain
from niwfstore import ObjectStore

from niwfctl.errors import ObjectError
from niwfctl.repository import Repository
from niwfctl.repository.clone import clone
from niwfctl.repository.upkeep import check_all

pytestmark = pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")


@contextmanager
def serving(server: BaseServer) -> Iterator[None]:
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(params=["folder", "http"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty remote; over HTTP, objects are found below it as on any LFS host."""
    bare = tmp_path / "remote.git"
    remote = Repo.init_bare(bare, mkdir=True, default_branch=b"main")
    if request.param == "folder":
        yield bare.as_uri()
        return
    objects, address = run_lfs_server(lfs_dir=str(bare / "lfs"))

    def below(environ: dict, start_response) -> Iterable[bytes]:
        """Sends whoever asks for REMOTE/info/lfs/… to the server of objects."""
        environ["wsgi.input"].read()
        place = address + environ["PATH_INFO"].removeprefix("/remote.git/info/lfs")
        start_response("307 Temporary Redirect", [("Location", place)])
        return []

    history = make_server(
        "localhost",
        0,
        make_wsgi_chain(DictBackend({"/remote.git": remote}), fallback_app=below),
        WSGIServerLogger,
        WSGIRequestHandlerLogger,
    )
    with serving(objects), serving(history):
        yield f"http://localhost:{history.server_port}/remote.git"


@pytest.fixture
def shared(committed: Repository, url: str) -> Repository:
    """A repository with a remote to push to."""
    committed.git.plain("branch", "-M", "main")
    committed.git.plain("remote", "add", "origin", url)
    return committed


@pytest.fixture(params=[False, True], ids=["without the LFS filter", "with the LFS filter"])
def lfs_filter(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch) -> bool:
    if request.param:
        config = tmp_path / "gitconfig"
        shutil.copy(os.environ["GIT_CONFIG_GLOBAL"], config)
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
        subprocess.run(["git", "lfs", "install", "--skip-repo"], check=True, capture_output=True)
    return request.param


def git(path: Path, *arguments: str) -> str:
    command = ["git", "-C", path, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def works(repository: Repository, like: Repository) -> None:
    """A clone holds what the original holds and answers as it does, and git finds nothing amiss."""
    assert repository.atlas() == like.atlas()
    prompt = "Say apple 3."
    answers = [r.load("apple").generate(prompt, max_new_tokens=4) for r in (repository, like)]
    assert answers[0] == answers[1]
    assert repository.verify().ok
    assert check_all(repository).damage == ()
    git(repository.path, "fsck", "--strict")
    git(repository.path, "lfs", "fsck")
    assert git(repository.path, "status", "--porcelain") == ""


def test_what_niwfctl_pushes_plain_git_clones_and_niwfctl_uses(
    shared: Repository, url: str, tmp_path: Path, lfs_filter: bool
) -> None:
    assert shared.remotes.push("origin", []) == 4
    assert git(shared.path, "status", "--porcelain") == ""
    subprocess.run(["git", "clone", "-q", url, tmp_path / "copy"], check=True)
    repository = Repository.open(tmp_path / "copy")
    assert len(list(repository.store)) == (4 if lfs_filter else 0)
    repository.remotes.fetch("origin")
    assert len(list(repository.store)) == 4
    works(repository, shared)


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_what_plain_git_pushes_niwfctl_clones_and_uses(
    shared: Repository, url: str, tmp_path: Path, lazy: bool
) -> None:
    git(shared.path, "lfs", "install", "--local", "--skip-smudge")
    git(shared.path, "push", "-q", "origin", "main")
    assert git(shared.path, "status", "--porcelain") == ""
    repository = clone(url, tmp_path / "copy", lazy)
    assert len(list(repository.store)) == (0 if lazy else 4)
    works(repository, shared)


def test_push_brings_what_the_remote_lost(shared: Repository, url: str, tmp_path: Path) -> None:
    shared.remotes.push("origin", [])
    assert shared.remotes.push("origin", []) == 0
    # git-lfs and dulwich keep an object in the same place
    there = ObjectStore(tmp_path / "remote.git" / "lfs" / "objects")
    for ref in shared.capability("apple").objects[:2]:
        there.remove(ref.oid)
    assert shared.remotes.push("origin", []) == 2
    assert set(there) == set(shared.store)


def test_what_a_clone_commits_comes_back_by_pull(shared: Repository, url: str, tmp_path) -> None:
    shared.remotes.push("origin", [])
    other = clone(url, tmp_path / "copy", lazy=True)
    other.rename("apple", "apples")
    other.remotes.push("origin", [])
    assert shared.remotes.pull("origin").kind == "fast-forward"
    assert shared.atlas() == other.atlas()


def test_an_object_is_fetched_again_while_a_remote_has_it_and_named_when_none_has(
    shared: Repository, tmp_path: Path
) -> None:
    shared.remotes.push("origin", [])
    oid = shared.capability("apple").regions[0].bases[0].oid
    shared.store.remove(oid)
    found = check_all(shared)
    assert found.elsewhere == ((oid, "origin"),) and not found.damage
    shared.load("apple")
    assert oid in shared.store
    shared.store.remove(oid)
    # git-lfs and dulwich keep an object in the same place
    ObjectStore(tmp_path / "remote.git" / "lfs" / "objects").remove(oid)
    with pytest.raises(ObjectError, match=r"no remote has it \(asked origin\)"):
        shared.load("apple")
    (found,) = check_all(shared).damage
    assert f"{oid} is not in the store, and no remote has it (asked origin)" in found.problem
