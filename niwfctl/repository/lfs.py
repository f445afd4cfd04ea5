"""Asks git-lfs for objects, and whether a remote has them, without moving their bytes."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from niwfstore import ObjectStore, Pointer, StoreError
from niwfstore.atomic import write_atomic

from niwfctl.errors import RemoteError
from niwfctl.git.git import Git
from niwfctl.git.process import blame_disk, progress
from niwfctl.layout import LFS_CONFIG, OBJECTS, PRIVATE, object_file

logger = logging.getLogger(__name__)

_ABSENT = re.compile(r"does not exist|remote missing object|\b404\b", re.IGNORECASE)
_HOOK = b'#!/bin/sh\ngit lfs pre-push "$@"\n'  # one that `git lfs update` recognizes as its own
_OID = re.compile(r"[0-9a-f]{64}")


def require_lfs() -> None:
    """Requires git-lfs, before anything is transferred.

    Raises:
        RemoteError: it is not installed.
    """
    if not shutil.which("git-lfs"):
        raise RemoteError(
            "git-lfs is not installed, and it transfers objects: get it from https://git-lfs.com"
        )


def fetch_objects(git: Git, remote: str, oids: Sequence[str]) -> bool:
    """Gets objects of one commit from a remote, in as few requests as git-lfs can.

    Returns:
        Whether git-lfs got all of them.

    Raises:
        RemoteError: the remote cannot be reached, or git-lfs is missing.
        OSError: the disk is full or read-only, or the user lacks permission for a file.
    """
    require_lfs()
    paths = [object_file(oid) for oid in oids]
    done = _run(
        git,
        *("lfs", "fetch", "--include", ",".join(paths), "--", remote, _commit_with(git, paths)),
        stdout=progress(),
    )
    if done.returncode and not absent(done.stderr):
        _require_writable(git.common)
        raise RemoteError(_unreachable(remote, done.stderr))
    return done.returncode == 0


def _require_writable(folder: Path) -> None:
    """Raises OSError if a folder cannot be written, of which git-lfs may only say `EOF`."""
    if not os.access(folder, os.W_OK):
        closed = os.statvfs(folder).f_flag & os.ST_RDONLY
        number = errno.EROFS if closed else errno.EACCES
        raise OSError(number, os.strerror(number), str(folder))


def _commit_with(git: Git, paths: Sequence[str]) -> str:
    """A commit that has these files: HEAD, or else the last one that changed any of them."""
    head = git.head()
    if head and git.files(head, OBJECTS).keys() >= set(paths):
        return head
    found = git.log(
        "HEAD",
        "%H",
        *("--all", "--full-history", "--diff-filter=AM", "--max-count=1"),
        "--",
        *paths,
    )
    return found or "HEAD"


def absent(said: str) -> bool:
    """Whether git-lfs says that a remote lacks what it was asked for."""
    return _ABSENT.search(said) is not None


def oids_in(said: str) -> set[str]:
    """Ids of the objects that git-lfs mentions."""
    return set(_OID.findall(said))


def add_hook(git: Git) -> None:
    """Makes plain `git push` also send objects, by git-lfs; warns where another hook is in the way.

    No filter is set: work trees hold pointers.
    """
    hook = git.common / "hooks" / "pre-push"
    if not hook.exists():
        write_atomic(hook, _HOOK, mode=0o777)
    if problem := hook_problem(git):
        logger.warning("%s", problem)


def hook_problem(git: Git) -> str | None:
    """What is wrong if the hook that git runs before a push does not call git-lfs; else None."""
    hook = git.worktree / git.plain("rev-parse", "--git-path", "hooks/pre-push")
    if hook.is_file() and re.search(rb"\bgit[ -]lfs\b", hook.read_bytes()):
        return None
    return (
        "git has no pre-push hook that calls git-lfs, so plain `git push` carries no objects: use "
        '`niwfctl push`, or add `git lfs pre-push "$@"` to that hook'
    )


def held(git: Git, remote: str, pointers: Sequence[Pointer]) -> list[Pointer]:
    """The objects, of those given, that a remote has.

    Raises:
        RemoteError: the remote cannot be reached, or git-lfs is missing.
    """
    left = list(pointers)
    while left and (missing := lacking(git, remote, left)):
        left = [pointer for pointer in left if pointer not in missing]
    return left


def lacking(git: Git, remote: str, pointers: Sequence[Pointer]) -> list[Pointer]:
    """Objects that a remote lacks: at least one of them, or none if it has all.

    A remote that is a folder is read, and its objects are hashed once. Any other is probed by an
    upload without local bytes: git-lfs then fails for each object that the remote would accept.

    Raises:
        RemoteError: the remote cannot be reached, or git-lfs is missing.
    """
    require_lfs()
    folder = _folder(git, remote)
    if folder is not None:
        return _lacking_in(folder, git, remote, pointers)
    tree = git.make_tree(
        # The empty line makes blobs that no commit has; git-lfs would otherwise omit those that the
        # remote's branches have.
        {pointer.oid: f"{pointer.text()}\n".encode() for pointer in pointers}
    )
    with tempfile.TemporaryDirectory() as nothing:
        done = _run(git, "-c", f"lfs.storage={nothing}", "lfs", "push", "--", remote, tree)
    if not done.returncode:
        return []
    found = [p for p in pointers if p.oid in oids_in(done.stderr + done.stdout)]
    if not found:
        raise RemoteError(_unreachable(remote, done.stderr))
    return found


def _lacking_in(folder: Path, git: Git, remote: str, pointers: Sequence[Pointer]) -> list[Pointer]:
    place = _common(git, folder)
    if place is None:
        raise RemoteError(_unreachable(remote, f"{folder} is not a git repository"))
    store = ObjectStore(
        place / "lfs" / "objects", git.common / PRIVATE / "cache" / "remote" / remote
    )
    return [pointer for pointer in pointers if not _whole(store, pointer)]


def _common(git: Git, folder: Path) -> Path | None:
    """The common git folder of a repository at a folder; a `.git` file may point elsewhere."""
    for place in (folder / ".git", folder):
        done = _run(git, "--git-dir", str(place), "rev-parse", "--git-common-dir")
        if not done.returncode:
            return git.worktree / done.stdout.removesuffix("\n")
    return None


def _whole(store: ObjectStore, pointer: Pointer) -> bool:
    try:
        store.get(pointer.oid, pointer.size)
    except StoreError:
        return False
    return True


def told_place(git: Git, remote: str) -> str | None:
    """Where a committed .lfsconfig has a remote's objects sent; None if it does not decide that."""
    own, committed = _places(git, remote)
    ours = {key: url for key, url in committed.items() if key not in own}
    return next((ours[key] for key in sorted(ours, key=lambda key: "push" not in key)), None)


def _places(git: Git, remote: str) -> tuple[dict[str, str], dict[str, str]]:
    """The URLs of a remote's objects by key: those of git's configuration, and of .lfsconfig."""
    wanted = rf"^(lfs\.(push)?url|remote\.{re.escape(remote)}\.lfs(push)?url)$"
    sources = ((), ("--file", LFS_CONFIG))
    said = [_run(git, "config", "-z", *one, "--get-regexp", wanted).stdout for one in sources]
    entries = ((entry.partition("\n")[::2] for entry in text.split("\0") if entry) for text in said)
    own, committed = map(dict, entries)
    return own, committed


def _folder(git: Git, remote: str) -> Path | None:
    """A remote's folder; None if the remote, or a place configured for its objects, is none."""
    if any(_places(git, remote)):
        return None
    url = git.plain("remote", "get-url", "--push", "--", remote)
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path))
    path = git.worktree / Path(url).expanduser()
    return path if path.is_dir() else None


def _run(
    git: Git, *arguments: str, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["git", *arguments],
        cwd=git.worktree,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "GIT_LFS_SKIP_SMUDGE": "1"},
    )
    if done.returncode:
        blame_disk(done.stderr)
    return done


def _unreachable(remote: str, words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return f"{remote} cannot be asked ({lines[0] if lines else 'git-lfs gives no reason'})"
