"""remote, push, fetch, pull: git and git-lfs move the bytes, in an order that loses nothing."""

from __future__ import annotations

import logging
import re
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING

from niwfstore import Pointer

from niwfctl.errors import RemoteError, UnknownName, UsageError
from niwfctl.git.process import transfer
from niwfctl.layout import LFS_CONFIG
from niwfctl.repository.holders import Holders
from niwfctl.repository.lfs import absent, held, lacking, oids_in, require_lfs, told_place
from niwfctl.repository.objects import obtain
from niwfctl.repository.pointers import pointed, read_pointers
from niwfctl.repository.tracking import branches_of, counterpart, follows, place
from niwfctl.several import Names, several

if TYPE_CHECKING:
    from niwfctl.repository.merge import Merged

logger = logging.getLogger(__name__)

_AHEAD = re.compile(r"^ ! \[rejected\] .*-> (\S+) \((fetch first|non-fast-forward)\)", re.M)
_ABSENT = re.compile(r"^fatal: couldn't find remote ref refs/heads/(.+)$", re.M)
_MOVED = re.compile(r"^ ! \[rejected\] +(\S+) .*\(would clobber existing tag\)", re.M)


class Remotes(Holders):
    """The remotes of one repository."""

    def urls(self) -> dict[str, str]:
        """URL of each remote, by name."""
        names = self._git.plain("remote").split()
        return {name: self._git.plain("remote", "get-url", "--", name) for name in names}

    def add(self, name: str, url: str) -> None:
        """Adds a remote; nothing is fetched.

        Raises:
            UsageError: git refuses the name, or it is taken.
        """
        self._git.plain("remote", "add", "--", name, url)

    def remove(self, name: str) -> None:
        """Forgets a remote.

        Raises:
            UnknownName: there is none of that name; the message lists what there is.
        """
        self.require(name)
        self._git.plain("remote", "remove", "--", name)

    def rename(self, old: str, new: str) -> None:
        """Renames a remote, and its tracking branches here.

        Raises:
            UnknownName: there is none of that name; the message lists what there is.
            UsageError: git refuses the new name, or it is taken.
        """
        self.require(old)
        self._git.plain("remote", "rename", "--", old, new)

    def set_url(self, name: str, url: str) -> None:
        """Changes a remote's URL; nothing is fetched.

        Raises:
            UnknownName: there is none of that name; the message lists what there is.
        """
        self.require(name)
        self._git.plain("remote", "set-url", "--", name, url)

    def push(
        self, remote: str, refs: Names = (), tags: bool = False, set_upstream: bool = False
    ) -> int:
        """Pushes refs, the current branch by default; returns how many objects went before them.

        With `tags`, also pushes all tags, or only those if no refs are given, as git does. A branch
        that follows none follows the pushed one from then on; with `set_upstream`, every one does.

        Objects are sent first, each hashed beforehand, and the remote must confirm that it has
        them: so it never holds a pointer without its object. Objects that the remote lacks of
        commits it already has, because it lost them or plain git pushed the commits, are also sent
        if these refs hold them. Before anything is sent, the pre-push hook and the remote are asked
        whether they would accept the refs.

        Raises:
            UnknownName: there is no such remote or ref.
            UsageError: there are no tags, or HEAD is detached.
            ObjectError: an object is missing or corrupt here; nothing is pushed.
            RemoteError: the remote cannot be reached, refuses, or lacks what it was sent.
        """
        self.require(remote)
        refs = several(refs)
        for ref in refs:
            self._git.resolve(ref)
        refs += self._tags() if tags else []
        refs = refs or [self._branch()]
        require_lfs()
        oids = self._outgoing(remote, refs)
        oids += self._lost(remote, refs, oids)
        self.gather(oids)
        for oid in oids:
            obtain(self._repository, oid, None, self._repository.store.verify)
        no = f"{remote} or the pre-push hook refused", "nothing was sent"
        later = {"GIT_LFS_SKIP_PUSH": "1"}  # objects are sent below
        self._push(remote, refs, "--dry-run", "--quiet", refusal=no, env=later)
        if oids:
            if elsewhere := told_place(self._git, remote):
                logger.warning("objects go to %s, as %s has it", elsewhere, LFS_CONFIG)
            cut = (
                f"{remote} did not receive all objects",
                "no branch was pushed; run the same command to resume",
            )
            listed = "".join(f"{oid}\n" for oid in oids)
            sent = ("lfs", "push", "--object-id", "--stdin", "--", remote)
            self._run(*sent, refusal=cut, given=listed)
            self._prove(remote, oids)
        self._git.await_locks()
        no = (
            f"{remote} did not accept {', '.join(refs)}",
            "fix what it reports and push again; objects that it has are not sent again",
        )
        following = [ref for ref in refs if not set_upstream and follows(self._git, ref)]
        fresh = [ref for ref in refs if ref not in following]
        for some, options in ((following, ()), (fresh, ("--set-upstream",))):
            if some:  # The hook was asked above.
                self._push(remote, some, "--no-verify", *options, refusal=no)
        return len(oids)

    def _push(
        self,
        remote: str,
        refs: list[str],
        *options: str,
        refusal: tuple[str, str],
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Runs `git push`; where the remote is ahead, says of what."""
        said = transfer(self._git.worktree, "push", *options, "--", remote, *refs, env=env)
        ahead = _AHEAD.findall(said or "")
        what, then = refusal
        if ahead and all(self._left(remote, *one) for one in ahead):
            branches = [branch for branch, _ in ahead]
            kept = self._git.resolve(f"refs/heads/{branches[0]}")[:12]
            what = f"{remote} has commits of {', '.join(branches)} that you took back here"
            then += (
                "; take them back there as well with `git push --force-with-lease "
                f"{remote} {' '.join(branches)}`, or get them with `niwfctl pull` and take them "
                f"back in a new commit with `niwfctl rollback --to {kept}`"
            )
        elif ahead:
            what = "the remote has commits that are not here"
            apart = [one for one, _ in ahead if counterpart(self._git, remote, one) != one]
            how = f"fetch {remote}` and `niwfctl merge {remote}/{apart[0]}" if apart else "pull"
            then += f"; get them with `niwfctl {how}` on that branch, and push again"
        self._require_done(said, (what, then))

    def _left(self, remote: str, branch: str, why: str) -> bool:
        """Whether a branch that git would not push was once, here, where the remote's is."""
        here, there = f"refs/heads/{branch}", place(remote, branch)
        if why == "fetch first" or here not in self._git.names(branch):
            return False  # the remote's commit is not even known here
        tip = self._git.plain("for-each-ref", "--format=%(objectname)", there)
        return bool(tip) and tip in self._git.plain("log", "-g", "--format=%H", here, "--")

    def fetch(
        self,
        remote: str,
        everything: bool = False,
        lazy: bool = False,
        prune: bool = False,
        branches: Names = (),
    ) -> None:
        """Fetches refs, then the objects of HEAD and of the remote's branches.

        A tag that differs here from the remote's is kept, with a warning. Objects that the remote
        lacks are an error if HEAD or what `pull` would merge needs them, else a warning.

        Args:
            everything: fetch the objects of all history.
            lazy: fetch no objects; each comes when a command first needs it.
            prune: forget branches that the remote no longer has.
            branches: of the remote; all of them by default.

        Raises:
            UnknownName: there is no such remote, or it has no such branch.
            UsageError: no branch can have such a name.
            RemoteError: the remote cannot be reached or lacks objects, or git-lfs is missing.
        """
        self.require(remote)
        for branch in (branches := several(branches)):
            self._git.plain("check-ref-format", "--branch", branch)
        if not lazy:
            require_lfs()
        self._git.await_locks()
        if prune:  # first, since a branch a/b cannot be stored beside a branch a
            no = f"{remote} cannot be asked for its branches", "nothing was fetched"
            self._run("remote", "prune", "--", remote, refusal=no)
        self._fetch_refs(remote, branches)
        if not lazy:
            self._fetch_objects(remote, everything, branches)

    def _fetch_refs(self, remote: str, branches: list[str]) -> None:
        no = f"not everything was fetched from {remote}", "nothing is lost; run it again"
        wanted = (remote, *(f"refs/heads/{branch}" for branch in branches))
        said = transfer(self._git.worktree, "fetch", "--tags", "--", *wanted)
        if absent_there := _ABSENT.search(said or ""):
            there = ", ".join(branches_of(self._git, remote)) or "none"
            raise UnknownName(
                f"{remote} has no branch {absent_there[1]}: as last fetched, there are {there}"
            )
        moved = _MOVED.findall(said or "")
        if not moved:
            self._require_done(said, no)
            return
        logger.warning(
            "%s has other tags called %s than this repository, which keeps its own: to replace "
            "them, run `git fetch --tags --force %s`",
            remote,
            ", ".join(moved),
            remote,
        )
        # Everything else was fetched, unless more than the tags failed: this reports what.
        self._run("fetch", "--no-tags", "--", *wanted, refusal=no)

    def _fetch_objects(self, remote: str, everything: bool, branches: list[str]) -> None:
        known = branches_of(self._git, remote)
        refs = {place(remote, name): name for name in known if not branches or name in branches}
        # HEAD may be at a tag that is on none of the branches.
        what = ("--all", "--", remote) if everything else ("--", remote, "HEAD", *refs)
        said = transfer(self._git.worktree, "lfs", "fetch", *what)
        if said is None:
            return
        oids = oids_in(said)
        if not (oids and absent(said)):
            raise RemoteError(
                f"not all objects were fetched from {remote} (see above): nothing is lost; run "
                "the same command to resume"
            )
        branch = self._git.branch()
        own = branch and place(remote, counterpart(self._git, remote, branch))
        incomplete = [
            ref
            for ref in ("HEAD", *refs)
            if not oids.isdisjoint(pointed(self._git, "--no-walk", ref).values())
        ]
        others = [refs[ref] for ref in incomplete if ref not in ("HEAD", own)]
        if others and len(others) == len(incomplete) and not everything:
            # Whoever pushed another branch incompletely must not stop those who do not use it.
            logger.warning(
                "%s lacks objects that only other branches need, those of %s: someone who has "
                "them must run `niwfctl push %s %s`",
                *(remote, ", ".join(others), remote, " ".join(others)),
            )
            return
        names = {
            name
            for revision in incomplete
            for name, capability in self._repository.atlas(revision).items()
            if any(ref.oid in oids for ref in capability.objects)
        }
        raise RemoteError(
            f"{remote} lacks objects of {', '.join(sorted(names)) or 'its history'} (see above): "
            "those it has were fetched; someone who has the rest must run `niwfctl push`, then "
            "rerun this command"
        )

    def pull(
        self, remote: str, lazy: bool = False, branch: str | None = None, ff_only: bool = False
    ) -> Merged:
        """Fetches, and merges a branch of the remote.

        Args:
            lazy: fetch no objects.
            branch: the remote's; by default the upstream if it is the remote's, or else the current
                branch's namesake. If given, no others are fetched.
            ff_only: refuse where both sides have commits of their own.

        Raises:
            UnknownName: the remote has no such branch.
            UsageError: the remote's branch no longer has commits that this one got from it.
            RemoteError, Conflict, UsageError: as `fetch` and `Repository.merge`.
        """
        there = branch or counterpart(self._git, remote, self._branch())
        self.fetch(remote, lazy=lazy, branches=several(branch or ()))
        if there not in branches_of(self._git, remote):
            raise UnknownName(
                f"{remote} has no branch {there}: push it, or set an upstream with `git branch "
                "--set-upstream-to`"
            )
        with self._repository.writing():
            span = f"HEAD...{place(remote, there)}"
            count = self._git.plain("rev-list", "--count", "--left-right", span).split()
            if ff_only and "0" not in count:
                raise UsageError(
                    f"this branch and {remote}/{there} have diverged, by {' and '.join(count)} "
                    "commits: merge them with `niwfctl pull` without --ff-only"
                )
            if "0" not in count:
                self._require_whole(f"{remote}/{there}", place(remote, there))
            return self._repository.merge(f"{remote}/{there}")

    def _require_whole(self, upstream: str, ref: str) -> None:
        """Refuses a merge that would bring back what someone took out of a branch on purpose."""
        forked = self._git.forked_from(ref)
        if forked and self._git.merge_bases(forked, ref) != [forked]:
            raise UsageError(
                f"{upstream} was rewritten and no longer has {forked[:12]}, from which this branch "
                f"comes: take it as it is now with `git reset --hard {upstream}`, or before that "
                f"commits of your own with `git rebase --onto {upstream} {forked[:12]}`; "
                f"`niwfctl merge {upstream}` would bring back what was taken out"
            )

    def _prove(self, remote: str, oids: list[str]) -> None:
        store = self._repository.store
        missing = lacking(self._git, remote, [Pointer(oid, store.size(oid)) for oid in oids])
        if missing:
            raise RemoteError(
                f"{remote} accepted object {missing[0].oid} but does not have it whole: no branch "
                "was pushed; remove what the remote's storage has of it, which git-lfs does not "
                "replace, and push again"
            )

    def _outgoing(self, remote: str, refs: list[str]) -> list[str]:
        """Objects of commits that the remote lacks, by its current refs."""
        command = ("git", "ls-remote", "--heads", "--tags", "--", remote)
        where = self._git.worktree
        listed = subprocess.run(command, cwd=where, stdout=subprocess.PIPE, text=True, check=False)
        if listed.returncode:
            raise RemoteError(f"{remote} cannot be reached (see above): nothing was sent")
        there = [line.split()[0] for line in listed.stdout.splitlines()]
        found = pointed(self._git, "--ignore-missing", *refs, "--not", *there)
        return list(dict.fromkeys(found.values()))

    def _lost(self, remote: str, refs: list[str], outgoing: list[str]) -> list[str]:
        """Objects of the refs' newest commits that the remote should have, but lacks."""
        oids = pointed(self._git, "--no-walk", *refs)
        known = (blob for blob, oid in oids.items() if oid not in outgoing)
        found = read_pointers(self._git, known).values()
        # Anything else was changed by hand, which `verify` and `fsck` report.
        pointers = [one for one in found if isinstance(one, Pointer)]
        there = set(held(self._git, remote, pointers))
        lost = [pointer.oid for pointer in pointers if pointer not in there]
        for oid in lost:
            if oid not in self._repository.store:
                logger.warning("object %s is neither here nor at %s", oid, remote)
        return [oid for oid in lost if oid in self._repository.store]

    def require(self, remote: str) -> None:
        """Requires that a remote is known.

        Raises:
            UnknownName: it is not; the message lists what there is.
        """
        known = self._git.plain("remote").split()
        if remote not in known:
            raise UnknownName(
                f"no remote is called {remote!r}: there are {', '.join(known) or 'none yet'}; add "
                f"it with `niwfctl remote add {remote} URL`"
            )

    def _tags(self) -> list[str]:
        tags = [f"refs/tags/{ref.name}" for ref in self._git.refs("tags")]
        if not tags:
            raise UsageError("there are no tags to push: make one with `niwfctl tag NAME`")
        return tags

    def _branch(self) -> str:
        branch = self._git.branch()
        if branch is None:
            raise UsageError("HEAD is detached: name a branch, or check one out")
        return branch

    def _run(
        self,
        *command: str,
        refusal: tuple[str, str],
        given: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Runs a transfer; if it fails, `refusal` says what failed and what that leaves."""
        self._require_done(transfer(self._git.worktree, *command, given=given, env=env), refusal)

    def _require_done(self, said: str | None, refusal: tuple[str, str]) -> None:
        """Raises if a transfer failed; `said` is what `transfer` returned."""
        if said is None:
            return
        what, then = refusal
        raise RemoteError(f"{what} (see above): {then}")
