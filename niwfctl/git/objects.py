"""git's objects: blobs and trees, read, written, and put into an index."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import git

from niwfctl.errors import GitError
from niwfctl.git.process import GitProcess, as_input

_BLOB = re.compile(rb"\w+ blob (\d+)\n")  # what `cat-file --batch` prints before the content


class GitObjects(GitProcess):
    """The objects of one git repository."""

    def is_partial(self) -> bool:
        """Whether git fetches what is not here from a remote that promised it."""
        said = ("config", "--get-regexp", r"^remote\..*\.promisor$")
        return bool(self._git(*said, with_exceptions=False))

    def files(self, commit: str, folder: str) -> dict[str, str]:
        """Blob id by path of the files in one folder of a commit.

        Raises:
            GitError: a folder is missing or damaged.
        """
        with self._command(f"list {folder} of {commit[:12]}"):
            listed = self._run.ls_tree("-z", commit, "--", f"{folder}/")
        entries = (entry.split("\t", 1) for entry in listed.split("\0") if entry)
        return {path: meta.split()[2] for meta, path in entries if meta.split()[1] == "blob"}

    def blob(self, commit: str, path: str) -> bytes | None:
        """Content of a file in a commit; None if there is no such file.

        Raises:
            GitError: it is missing or damaged, or a folder is.
        """
        try:
            return self._cat(f"{commit}:{path}")
        except git.GitCommandError:
            with self._command(f"list {commit[:12]}"):
                listed = self._run.ls_tree(commit, "--", path)
            if listed:
                raise self._unreadable(listed.split()[2]) from None
            return None

    def blobs(self, ids: Iterable[str]) -> dict[str, bytes]:
        """Contents of blobs by id, read by one git process.

        Raises:
            GitError: one is missing or damaged.
        """
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return {}
        with as_input("".join(f"{blob}\n" for blob in wanted)) as questions:
            answer = self._run.cat_file(
                "--batch",
                istream=questions,
                stdout_as_string=False,
                strip_newline_in_stdout=False,
                with_exceptions=False,  # git stops at a damaged blob, so its output is too short
            )
        found, start = {}, 0
        for blob in wanted:
            header = _BLOB.match(answer, start)
            end = header.end() + int(header[1]) if header else len(answer)
            if not header or end >= len(answer):
                raise self._unreadable(blob)
            found[blob] = answer[header.end() : end]
            start = end + 1
        return found

    def blob_ids(self, path: str, commits: Iterable[str]) -> dict[str, str | None]:
        """Id of a file's blob by commit, None where there is no such file; by one git process."""
        commits = list(commits)
        with as_input("".join(f"{commit}:{path}\n" for commit in commits)) as questions:
            answer = self._run.cat_file(
                "--batch-check=%(objectname)", "--buffer", istream=questions
            )
        lines = answer.splitlines()
        return {
            commit: None if line.endswith(" missing") else line
            for commit, line in zip(commits, lines, strict=True)
        }

    def small_blobs(self, ids: Iterable[str], limit: int) -> dict[str, bytes]:
        """Contents by id of those objects that are blobs of fewer bytes than `limit`.

        Raises:
            GitError: one is missing or damaged.
        """
        with as_input("".join(f"{one}\n" for one in ids)) as questions:
            answer = self._run.cat_file("--batch-check", "--buffer", istream=questions)
        small = []
        for line in answer.splitlines():
            one, kind, *size = line.split()
            if kind == "missing" or (kind == "blob" and int(size[0]) < limit):
                small.append(one)
        return self.blobs(small)

    def _unreadable(self, blob: str) -> GitError:
        file = self.common / "objects" / blob[:2] / blob[2:]
        return GitError(
            f"git's blob {blob} is missing or damaged: remove {file} if it exists, then run "
            "`git fetch --refetch` to get it from a remote, or copy that file from another clone"
        )

    def make_tree(self, files: Mapping[str, bytes]) -> str:
        """A tree object that holds files by name; nothing refers to it."""
        with self._command("write a tree"), self.scratch() as scratch:
            blobs = self._write_blobs(scratch, list(files.values()))
            lines = (
                f"100644 blob {blob}\t{name}\n" for name, blob in zip(files, blobs, strict=True)
            )
            with as_input("".join(lines)) as entries:
                return self._git("mktree", istream=entries)

    def _write_blobs(self, scratch: Path, contents: Sequence[bytes]) -> list[str]:
        files = [scratch / f"blob{number}" for number in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        with as_input("".join(f"{_quoted(file)}\n" for file in files)) as paths:
            options = ("-w", "--no-filters", "--stdin-paths")
            return self._git("hash-object", *options, istream=paths).split()

    def _listed(self, *command: str) -> dict[str, str]:
        """Object id by path, of `ls-tree -z` or `ls-files --stage -z`."""
        entries = (entry.split("\t", 1) for entry in self._git(*command).split("\0") if entry)
        # The longest word is the id, whose place differs between the two.
        return {path: max(meta.split(), key=len) for meta, path in entries}

    def _hashed(self, paths: Sequence[str]) -> dict[str, str]:
        """Blob id by path of files in the work tree, as they are there."""
        with as_input("".join(f"{path}\n" for path in paths)) as names:
            blobs = self._git("hash-object", "--no-filters", "--stdin-paths", istream=names).split()
        return dict(zip(paths, blobs, strict=True))

    def _stage(self, blobs: Mapping[str, str | None], index: dict[str, str]) -> None:
        """Puts blobs into an index; None removes the path."""
        lines = "".join(
            f"100644 {blob}\t{path}\0" if blob else f"0 {self._no_object}\t{path}\0"
            for path, blob in blobs.items()
        )
        with as_input(lines) as info:
            self._git("update-index", "--add", "-z", "--index-info", istream=info, env=index)

    @cached_property
    def _no_object(self) -> str:
        digits = {"sha1": 40, "sha256": 64}
        return "0" * digits[self._run.rev_parse("--show-object-format")]

    def _cat(self, name: str) -> bytes:
        return self._run.cat_file(
            "blob", name, stdout_as_string=False, strip_newline_in_stdout=False
        )


def _quoted(path: Path) -> str:
    """A path in one line, as git reads it."""
    escaped = str(path).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'
