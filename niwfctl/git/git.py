"""git, through its plumbing: commits are made without the index, and refs are compared and swapped.

A kill leaves no index.lock behind, since none is taken; everything git writes is fsynced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import git

from niwfctl.errors import GitError, NotARepository, UnknownName, UsageError
from niwfctl.git.index import stamp
from niwfctl.git.moves import GitMoves
from niwfctl.git.process import GitCommand, Repo, lines_of, require_git
from niwfctl.paths import existing_ancestor

Changes = Mapping[str, bytes | None]
_REF = "%(refname:lstrip=2)%1f%(objectname)%1f%(*objectname)%1f%(contents:subject)"
_ENDS_LINES = (2, 36)  # the first git that can list work trees whose paths contain newlines


class Ref(NamedTuple):
    """A branch or tag, and the subject of its commit or of its own message."""

    name: str
    commit: str
    subject: str


class Git(GitMoves):
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

    @property
    def shallow(self) -> bool:
        """Whether commits lack parents that they have elsewhere."""
        return self.plain("rev-parse", "--is-shallow-repository") == "true"

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
