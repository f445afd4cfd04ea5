"""git, through its plumbing: commits are made without the index, and refs are compared and swapped.

A kill leaves no index.lock behind, since none is taken; everything git writes is fsynced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import git
from niwfstore.atomic import write_atomic

from niwfctl.errors import GitError, NiwfError, NotARepository, UnknownName, UsageError
from niwfctl.git.index import rewrite_index, stamp
from niwfctl.git.merges import GitMerges
from niwfctl.git.process import GitCommand, Repo, lines_of, require_git, words
from niwfctl.git.reflocks import await_locks
from niwfctl.paths import existing_ancestor

Changes = Mapping[str, bytes | None]
_REF = "%(refname:lstrip=2)%1f%(objectname)%1f%(*objectname)%1f%(contents:subject)"
_ENDS_LINES = (2, 36)  # the first git that can list work trees whose paths contain newlines
_FILE = re.compile(r"^:\d+ 100644 \w+ (\w+) \w\t(.+)$", re.M)  # (blob, path) from `diff-tree`


class Ref(NamedTuple):
    """A branch or tag, and the subject of its commit or of its own message."""

    name: str
    commit: str
    subject: str


class Git(GitMerges):
    """One git repository and its main work tree."""

    @classmethod
    def open(cls, path: Path) -> Git:
        """The repository that contains `path`.

        Raises:
            NotARepository: there is none, or it has no work tree.
            GitError: git is not installed.
        """
        require_git()
        try:
            # Absolute, since a leading `~` may also be the name of a folder.
            repo = Repo(path.absolute(), search_parent_directories=True, expand_vars=False)
        except (git.InvalidGitRepositoryError, git.NoSuchPathError) as error:
            raise NotARepository(
                f"{path} is not inside a niwfctl repository: make one with `niwfctl init`"
            ) from error
        if repo.working_tree_dir is None:
            raise NotARepository(f"{path} is a bare git repository: clone it and work in the clone")
        return cls(repo)

    @classmethod
    def init(cls, path: Path) -> Git:
        """Makes a repository at `path`, or joins the one that is rooted there."""
        path.mkdir(parents=True, exist_ok=True)
        GitCommand(path).init()
        return cls.open(path)

    @staticmethod
    def require_identity(path: Path) -> None:
        """Requires that git knows who commits in `path`.

        Raises:
            GitError: git is not installed, or knows no name or e-mail.
        """
        require_git()
        command = GitCommand(existing_ancestor(path))
        try:
            command.var("GIT_COMMITTER_IDENT")
            command.var("GIT_AUTHOR_IDENT")
        except git.GitCommandError as error:
            raise GitError(
                "git does not know who you are: run `git config --global user.name NAME` and "
                "`git config --global user.email EMAIL`"
            ) from error

    def head(self) -> str | None:
        """Commit id of HEAD; None before the first commit.

        Raises:
            GitError: git cannot read it: it is damaged, or the repository belongs to someone else.
        """
        try:
            return self.resolve("HEAD")
        except UnknownName:
            with self._command("read the commit at HEAD"):
                return None if self._unborn() else self._run.rev_parse("HEAD^{commit}")

    def _unborn(self) -> bool:
        """Whether HEAD is a branch without a commit."""
        status, branch, _ = self._git(
            "symbolic-ref", "--quiet", "HEAD", with_extended_output=True, with_exceptions=False
        )
        if status:  # detached, or git refuses, as the next command reports
            return False
        return branch not in lines_of(self._run.for_each_ref("--format=%(refname)", branch))

    def head_stamp(self) -> tuple[object, ...]:
        """A value that changes whenever HEAD's commit does; cheap, since it starts no process."""
        parts: list[object] = []
        name, folder = "HEAD", self.folder
        while name and name not in parts:
            try:
                content = (folder / name).read_text(errors="surrogateescape")
            except OSError:  # packed
                content = ""
            parts += name, content
            name = content.removeprefix("ref: ").strip() if content.startswith("ref: ") else ""
            folder = self.common
        packed = (self.common / "packed-refs", self.common / "reftable" / "tables.list")
        return (*parts, *map(stamp, packed))

    def resolve(self, revision: str) -> str:
        """Full id of the commit a revision names.

        Raises:
            UnknownName: there is no such commit.
        """
        if not revision.startswith(("-", "^")):  # an option, or an exclusion
            try:
                return self._run.rev_parse("--verify", "--quiet", f"{revision}^{{commit}}")
            except git.GitCommandError:
                pass
        raise UnknownName(
            f"no commit is called {revision!r}: expected a branch, a tag or a commit id, as "
            "`niwfctl log` shows them"
        )

    def branch(self) -> str | None:
        """Name of the current branch; None when HEAD is detached."""
        try:
            return self._run.symbolic_ref("--short", "--quiet", "HEAD")
        except git.GitCommandError:
            return None

    def names(self, name: str) -> list[str]:
        """Full names of the branches and tags called `name`."""
        listed = self._run.for_each_ref(
            "--format=%(refname)", f"refs/heads/{name}", f"refs/tags/{name}"
        )
        return [ref for ref in lines_of(listed) if ref.split("/", 2)[2] == name]

    def refs(self, kind: str) -> list[Ref]:
        """Branches (`heads`) or tags (`tags`), by name."""
        listed = self._run.for_each_ref(f"--format={_REF}", f"refs/{kind}")
        found = (line.split("\x1f", 3) for line in lines_of(listed))
        return [Ref(name, peeled or id, subject) for name, id, peeled, subject in found]

    def commit(
        self, changes: Changes, message: str, parents: Sequence[str], onto: str | None = None
    ) -> str:
        """Makes a commit object: the files of `onto` with `changes`. No ref moves.

        Hooks run as in `git commit` and may change the files and the message; the commit is signed
        if git is configured to sign.

        Args:
            changes: new content by path; None removes the file.
            parents: commit ids; none for a first commit.
            onto: tree or commit to start from; the first parent by default.

        Raises:
            GitError: git refuses, for instance without an identity, or a hook does.
        """
        onto = onto or (parents[0] if parents else None)
        with self._command("make the commit"), self.scratch() as scratch:
            index = {"GIT_INDEX_FILE": str(scratch / "index")}
            if onto:
                self._git("read-tree", onto, env=index)
            kept = {path: content for path, content in changes.items() if content is not None}
            blobs = dict(zip(kept, self._write_blobs(scratch, list(kept.values())), strict=True))
            self._stage({path: blobs.get(path) for path in changes}, index)
            self.ask_hook("pre-commit", env=index)
            said = self._agreed(scratch, message, "merge" if len(parents) > 1 else "message", index)
            tree = self._git("write-tree", env=index)
            line = [part for parent in parents for part in ("-p", parent)]
            sign = ["-S"] if self._is_set("commit.gpgSign") else []
            return self._git("commit-tree", tree, *line, *sign, "-F", str(said))

    def _agreed(self, scratch: Path, message: str, source: str, index: dict[str, str]) -> Path:
        """A file with the message as the hooks leave it."""
        file = scratch / "COMMIT_EDITMSG"
        if not message.strip():
            raise UsageError("the message is empty: say what was done")
        file.write_text(message.removesuffix("\n") + "\n", "utf-8", "surrogateescape")
        self.ask_hook("prepare-commit-msg", str(file), source, env=index)
        self.ask_hook("commit-msg", str(file), env=index)
        if not file.read_bytes().strip():
            raise GitError("a hook emptied the commit message: fix the hook")
        return file

    def refuse_loss(self, new: str, paths: Iterable[str]) -> None:
        """Refuses where `sync` would lose what neither HEAD nor `new` has.

        What a killed `sync` wrote equals `new`, so doing it again is not refused.

        Raises:
            UsageError: a file has local changes, staged or not, or is not tracked.
        """
        with self._command("look for local changes"):
            changed = self._changed(paths)
            if not changed:
                return
            known = [self._listed("ls-tree", "-rz", of, "--", *changed) for of in ("HEAD", new)]
            staged = self._listed("ls-files", "--stage", "-z", "--", *changed)
            here = self._hashed([path for path in changed if (self.worktree / path).is_file()])
        lost = [
            path
            for path in changed
            if {here.get(path), staged.get(path)} - {None, *(blobs.get(path) for blobs in known)}
        ]
        if lost:
            raise UsageError(
                f"local changes of {', '.join(lost)} would be lost: commit them with git, or put "
                "them aside with `git stash --include-untracked`"
            )

    def _changed(self, paths: Iterable[str]) -> list[str]:
        """Those of `paths` that differ from HEAD in the work tree or the index."""
        if not (paths := sorted(paths)):  # git would list everything
            return []
        plain = ("--no-optional-locks", "status", "--porcelain", "-z", "--no-renames")
        listed = self._git(*plain, "--untracked-files=all", "--", *paths)
        return [line[3:] for line in listed.split("\0") if line]

    def sync(self, commit: str, paths: Iterable[str]) -> None:
        """Writes `paths` as of `commit` to the work tree and the index.

        Every file, and the index, is replaced atomically.

        Raises:
            UsageError: a folder is a symbolic link, which may lead anywhere.
        """
        paths = list(paths)
        for folder in {(self.worktree / path).parent for path in paths} - {self.worktree}:
            if folder.is_symlink():
                raise UsageError(f"{folder} is a symbolic link: replace it with a folder")
        with self._command("update the index"), self.scratch() as scratch:
            blobs = self._listed("ls-tree", "-r", "-z", commit, "--", *paths)
            contents = self.blobs(blobs.values())
            for path in paths:
                if path in blobs:
                    # Through a temporary file outside the work tree, since a kill leaves it behind.
                    write_atomic(self.worktree / path, contents[blobs[path]], scratch=scratch)
                else:
                    (self.worktree / path).unlink(missing_ok=True)
            staged = {path: blobs.get(path) for path in paths}
            rewrite_index(
                self.folder,
                scratch,
                lambda index: self._stage(staged, {"GIT_INDEX_FILE": str(index)}),
            )

    def advance(self, new: str, old: str | None, reason: str) -> None:
        """Moves HEAD's branch from `old` to `new`.

        Raises:
            Busy: another git is moving a branch.
            GitError: it is no longer at `old`: someone else moved it.
        """
        self.await_locks()
        with self._command("move the branch, which has changed meanwhile: try again"):
            self._git("update-ref", "-m", reason, "HEAD", new, old or "")

    def await_locks(self) -> None:
        """Waits for others that change refs; locks that a kill left behind are removed.

        Raises:
            Busy: another git does not end.
        """
        await_locks({self.folder, self.common})

    def move(self, old: str, new: str, reason: str) -> None:
        """Moves HEAD's branch, index and work tree from one commit to another.

        Raises:
            UsageError: local changes would be lost.
            Busy: another git is moving a branch.
            GitError: the branch is no longer at `old`; index and work tree are as before.
        """
        self.await_locks()
        if self.head() != old:
            raise GitError("the branch has changed meanwhile: try again")
        self._read(old, new)
        try:
            self.advance(new, old, reason)
        except NiwfError:
            self._read(new, old)
            raise

    def _read(self, old: str, new: str) -> None:
        """Brings what differs between two commits into the index and the work tree.

        Raises:
            UsageError: local changes would be lost.
        """

        def read(index: Path) -> None:
            env = {"GIT_INDEX_FILE": str(index)}
            self._stage(self._brought(old, new), env)
            # The index has no file times for what `sync` wrote.
            self._git("update-index", "-q", "--refresh", env=env, with_exceptions=False)
            self._git("read-tree", "-m", "-u", old, new, env=env)

        try:
            with self.scratch() as scratch:
                rewrite_index(self.folder, scratch, read)
        except git.GitCommandError as error:
            raise UsageError(f"local changes would be lost: {words(error)}") from error

    def _brought(self, old: str, new: str) -> dict[str, str]:
        """Blob by path of the changes that are already in the work tree, from a killed move."""
        plain = ("-c", "core.quotePath=true")  # so that a quoted path names no file
        listed = self._git(*plain, "diff-tree", "-r", "--no-renames", "--diff-filter=AM", old, new)
        found = {path: blob for blob, path in _FILE.findall(listed)}
        files = [path for path in found if (self.worktree / path).is_file()]
        return dict(found.items() & self._hashed(files).items())

    def check(self) -> None:
        """`git fsck`.

        Raises:
            GitError: an object is missing or damaged.
        """
        status, found, error = self._git(
            *("fsck", "--strict", "--no-dangling", "--no-progress"),
            with_extended_output=True,
            with_exceptions=False,
        )
        if status:
            what = "; ".join(lines_of(f"{error}\n{found}")) or f"exit status {status}"
            raise GitError(f"git found its own objects damaged: {what}")

    def checkout(self, revision: str) -> None:
        """`git checkout REVISION`.

        Raises:
            UsageError: git refuses, because local changes would be lost.
        """
        self.plain("checkout", "--quiet", revision)

    def follow(self, branch: str) -> bool:
        """Checks out a new branch that tracks a remote's branch; False if no remote has it.

        Raises:
            UsageError: git refuses: several remotes have it, or local changes would be lost.
        """
        listed = self._run.for_each_ref("--format=%(refname:lstrip=3)", "refs/remotes")
        if branch.startswith("-") or branch not in lines_of(listed):  # git would take an option
            return False
        self.plain("checkout", "--quiet", "--guess", branch, "--")
        return True

    def work_trees(self) -> list[Path]:
        """The main work tree and the linked ones."""
        listed = ("worktree", "list", "--porcelain")
        if self._run.version_info >= _ENDS_LINES:
            lines = self.plain(*listed, "-z").split("\0")
        else:  # a newline in a path ends it here
            lines = lines_of(self.plain(*listed))
        places = (line.partition(" ") for line in lines)
        return [Path(place) for key, _, place in places if key == "worktree"]

    def changes(self, *paths: str) -> list[str]:
        """Lines of `git status --porcelain` for paths of the work tree."""
        plain = ("--no-optional-locks", "status", "--porcelain", "--untracked-files=all")
        listed = self._git(*plain, "--", *paths)
        return lines_of(listed)

    def log(self, revision: str, format: str, *options: str) -> str:
        """`git log` with a format, and nothing that git's configuration adds to it."""
        plain = ("--no-show-signature", "--no-color", "--no-follow")
        return self._run.log(revision, f"--format={format}", *plain, *options)

    def has_header(self, commit: str, name: str) -> bool:
        """Whether a commit object has a header of that name."""
        header, _, _ = self._run.cat_file("commit", commit).partition("\n\n")
        return any(line.startswith(f"{name} ") for line in header.splitlines())

    def kind(self, name: str) -> str:
        """What git takes a name for: `commit`, `tag` (an annotated one), `tree` or `blob`.

        Raises:
            UsageError: there is no object of that name.
        """
        return self.plain("cat-file", "-t", name)

    def verify_tag(self, tag: str) -> str:
        """What gpg or ssh say of an annotated tag's signature, good or not."""
        _, _, said = self._git(
            *("verify-tag", "--raw", tag), with_extended_output=True, with_exceptions=False
        )
        return said
