"""G5 across commands: a kill at a random moment, alone or with all it has begun, loses nothing.

$NIWFCTL_KILLS says how many kills, over all commands; a few by default.
"""

import math
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from faults import KILLED, ended, intact, run_git, start
from niwfstore import ObjectStore, Pointer

from niwfctl.errors import NiwfError
from niwfctl.repository import Repository
from niwfctl.repository.clone import clone
from niwfctl.repository.upkeep import check_all, collect

Add = Callable[..., str]
Train = Callable[..., None]

pytestmark = pytest.mark.skipif(not shutil.which("git-lfs"), reason="needs git-lfs")


@dataclass(frozen=True)
class Verb:
    """A command, and how to see that it has done its work."""

    run: Callable[[Repository], object]
    done: Callable[[Repository], bool]


def remote_has(repository: Repository, branch: str) -> bool:
    listed = run_git(repository.path, "ls-remote", "origin", f"refs/heads/{branch}")
    return listed.startswith(run_git(repository.path, "rev-parse", branch))


VERBS = {
    "commit": Verb(lambda r: r.commit(["fresh"], "Fresh"), lambda r: "fresh" in r.atlas()),
    "merge": Verb(lambda r: r.merge("side"), lambda r: "right" in r.atlas()),
    "rollback": Verb(lambda r: r.rollback("removed"), lambda r: "removed" in r.atlas()),
    "gc": Verb(
        lambda r: collect(r, 0.0, False), lambda r: not collect(r, 0.0, dry_run=True).objects
    ),
    "push": Verb(lambda r: r.remotes.push("origin", ["side"]), lambda r: remote_has(r, "side")),
    "pull": Verb(lambda r: r.remotes.pull("origin"), lambda r: "theirs" in r.atlas()),
}
EACH = math.ceil(int(os.environ.get("NIWFCTL_KILLS", "12")) / len(VERBS))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, _fresh: Path, add: Add, train: Train) -> Path:
    """A folder with `repository` and its `remote.git`, in which every command has work to do."""
    folder = tmp_path_factory.mktemp("stage")
    remote = folder / "remote.git"
    run_git(folder, "init", "--quiet", "--bare", "-b", "main", str(remote))
    repository = Repository.open(shutil.copytree(_fresh, folder / "repository"))
    git = repository.git.plain
    git("branch", "-M", "main")
    git("remote", "add", "origin", str(remote))
    add(repository, "base")
    start = add(repository, "removed", 0.1)
    repository.remotes.push("origin", [])

    other = clone(str(remote), folder / "other")
    add(other, "theirs", 0.2)
    other.remotes.push("origin", [])
    shutil.rmtree(folder / "other")

    git("checkout", "--quiet", "-b", "side", start)
    add(repository, "right", 0.3)
    git("checkout", "--quiet", "-b", "gone", start)
    add(repository, "unreachable", 0.4)
    git("checkout", "--quiet", "main")
    git("branch", "--quiet", "-D", "gone")
    repository.remove("removed")
    git("reflog", "expire", "--expire=now", "--all")
    train(repository, "fresh", shift=0.5)
    return folder


def opened(stage: Path, folder: Path) -> Repository:
    """A copy of the stage to work in, whose remote no kill here reaches, as another machine's."""
    shutil.copytree(stage, folder)
    repository = Repository.open(folder / "repository")
    for key, value in {
        "url": str(folder / "remote.git"),
        "receivepack": "setsid --wait git-receive-pack",
        "uploadpack": "setsid --wait git-upload-pack",
    }.items():
        repository.git.plain("config", f"remote.origin.{key}", value)
    return repository


@pytest.fixture(scope="module")
def durations(stage: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """How long each command takes at best when it is let alone."""
    found: dict[str, float] = {}
    for name, verb in 3 * list(VERBS.items()):
        repository = opened(stage, tmp_path_factory.mktemp("timing") / name)
        began = time.perf_counter()
        assert ended(start(lambda v=verb, r=repository: v.run(r))) == 0
        found[name] = min(time.perf_counter() - began, found.get(name, math.inf))
        assert verb.done(Repository.open(repository.path))
    return found


def kill(child: int, everything: bool) -> int:
    """Kills a process, and either all it has begun, or lets that end by itself.

    Returns:
        KILLED, or the code it had ended with before.
    """
    (os.killpg if everything else os.kill)(child, signal.SIGKILL)
    code = ended(child)
    with suppress(ProcessLookupError):
        while True:
            os.killpg(child, 0)
            time.sleep(0.01)
    return code


def commits(repository: Repository) -> dict[str, str]:
    """Branch tips, here and on the remote."""
    places = (repository.path, Path(repository.git.plain("remote", "get-url", "origin")))
    lines = [
        line.split()
        for place in places
        for line in run_git(
            place, "for-each-ref", "refs/heads", f"--format={place.name}/%(refname) %(objectname)"
        ).splitlines()
    ]
    return {ref: commit for ref, commit in lines}


def nothing_lost(repository: Repository, before: dict[str, str]) -> None:
    """Every branch holds what it held, and every pointer its object, here and on the remote."""
    after = commits(repository)
    for ref, commit in before.items():
        place = repository.path.parent / ref.split("/", 1)[0]
        run_git(place, "merge-base", "--is-ancestor", commit, after[ref])
    for place in {ref.split("/", 1)[0] for ref in after}:
        whole(repository.path.parent / place)


def whole(place: Path) -> None:
    """git finds nothing amiss, and every pointer that a branch holds has its object."""
    run_git(place, "fsck", "--strict")
    common = place / run_git(place, "rev-parse", "--git-common-dir")
    store = ObjectStore(common / "lfs" / "objects")
    for line in run_git(place, "rev-list", "--objects", "--branches").splitlines():
        blob, _, path = line.partition(" ")
        if path.startswith("objects/"):
            pointer = Pointer.parse(run_git(place, "cat-file", "blob", blob) + "\n")
            store.verify(pointer.oid, pointer.size)


@pytest.mark.parametrize("name", VERBS)
def test_a_kill_at_a_random_moment_loses_nothing_and_the_command_succeeds_when_run_again(
    name: str, stage: Path, durations: dict[str, float], tmp_path: Path
) -> None:
    verb, chance = VERBS[name], random.Random()
    landed, longest = 0, durations[name]
    while landed < EACH:
        repository = opened(stage, tmp_path / "stage")
        before = commits(repository)
        child = start(lambda r=repository: verb.run(r))
        moment, everything = chance.uniform(0, longest), chance.random() < 0.5
        time.sleep(moment)
        code = kill(child, everything)
        print(f"{name}: {moment:.4f} s, {'with' if everything else 'without'} the rest, {code}")
        assert code in (0, KILLED)
        landed += code == KILLED
        if code == 0:  # it has become quicker than it was when it was timed
            longest *= 0.8
        repository = intact(repository.path)
        nothing_lost(repository, before)
        if verb.done(repository):
            with suppress(NiwfError):  # nothing left to do
                verb.run(repository)
        else:
            verb.run(repository)
        repository = intact(repository.path)
        assert verb.done(repository)
        nothing_lost(repository, before)
        assert check_all(repository).damage == ()
        assert run_git(repository.path, "status", "--porcelain") == ""
        shutil.rmtree(tmp_path / "stage")
