"""Other tools that keep large files beside git, each as its own documentation sets it up."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from safetensors.torch import load_file, save_file


class Tool:
    """A git repository in which a tool keeps large files.

    Attributes:
        title: its name in tables.
        stores: folders of the repository that hold what it keeps.
    """

    title = "git"
    stores: tuple[str, ...] = (".git",)

    def __init__(self, folder: Path, *executables: Path) -> None:
        """
        Args:
            folder: to make.
            executables: programs that the tool needs, beyond those on the PATH.
        """
        self.folder = folder
        places = [str(path.absolute().parent) for path in executables]
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join([*places, os.environ["PATH"]]),
            "HOME": str(folder.with_name(f"{folder.name}-home")),
        }
        self._environment.pop("PYTHONPATH", None)
        Path(self._environment["HOME"]).mkdir()
        folder.mkdir()
        self.run("git", "config", "--global", "user.name", "Ada")
        self.run("git", "config", "--global", "user.email", "ada@example.org")
        self.run("git", "init", "--quiet", "-b", "main")
        self.set_up()

    def set_up(self) -> None:
        """Prepares the fresh git repository."""

    def put(self, source: Path, name: str) -> None:
        """Copies a file to where the tool finds it; this does not count as its work."""
        shutil.copyfile(source, self.folder / name)

    def commit(self, name: str, message: str) -> None:
        """Stores a file's new content, and commits."""
        raise NotImplementedError

    def checkout(self, revision: str) -> None:
        """Brings the files of a revision into the work tree."""
        self.run("git", "checkout", "--quiet", revision)

    def size(self) -> int:
        """Bytes of all that is stored, without the work tree and git's sample hooks."""
        return sum(
            file.stat().st_size
            for store in self.stores
            for file in (self.folder / store).rglob("*")
            if file.is_file() and "hooks" not in file.parts
        )

    def run(self, *command: str) -> None:
        """Runs a command in the repository; its output is shown only if it fails."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")


class GitLfs(Tool):
    """git-lfs, with its filter."""

    title = "git-lfs"

    def set_up(self) -> None:
        self.run("git", "lfs", "install")
        self.run("git", "lfs", "track", "*.safetensors")
        self.run("git", "add", ".gitattributes")

    def commit(self, name: str, message: str) -> None:
        self.run("git", "add", name)
        self.run("git", "commit", "--quiet", "-m", message)


class Dvc(Tool):
    """DVC, with its cache in the repository."""

    title = "DVC"
    stores = (".git", ".dvc/cache")

    def set_up(self) -> None:
        self.run("dvc", "init", "--quiet")
        self.run("dvc", "config", "core.analytics", "false")
        self.run("dvc", "config", "core.autostage", "true")
        self.run("git", "add", ".dvc")
        self.run("git", "commit", "--quiet", "-m", "DVC")

    def commit(self, name: str, message: str) -> None:
        self.run("dvc", "add", "--quiet", name)
        self.run("git", "commit", "--quiet", "-m", message)

    def checkout(self, revision: str) -> None:
        super().checkout(revision)
        self.run("dvc", "checkout", "--quiet")


class GitTheta(Tool):
    """git-theta, which keeps a checkpoint tensor by tensor.

    Version 0.2.0 knows neither bf16 nor fp16, so it is given the same values in float32.
    """

    title = "git-theta"

    def set_up(self) -> None:
        self._environment |= {"GIT_THETA_CHECKPOINT_TYPE": "safetensors"}
        self.run("git", "theta", "install")

    def put(self, source: Path, name: str) -> None:
        tensors = {key: value.float() for key, value in load_file(source).items()}
        save_file(tensors, self.folder / name)

    def commit(self, name: str, message: str) -> None:
        tracked = self.folder / ".gitattributes"
        if not tracked.exists() or name not in tracked.read_text():
            self.run("git", "theta", "track", name)
        self.run("git", "theta", "add", name)
        self.run("git", "commit", "--quiet", "-m", message)


def available(folder: Path, dvc: Path | None, git_theta: Path | None) -> list[Tool]:
    """The tools whose programs are available, each in a folder of its own."""
    tools: list[Tool] = []
    if shutil.which("git-lfs"):
        tools.append(GitLfs(folder / "lfs"))
    if dvc:
        tools.append(Dvc(folder / "dvc", dvc))
    if git_theta:
        tools.append(GitTheta(folder / "theta", git_theta))
    return tools


def notes(tools: list[Tool]) -> str:
    """Notes on what git-theta was given, and on missing tools; or nothing."""
    titles = {tool.title for tool in tools}
    missing = {"git-lfs", "DVC", "git-theta"} - titles
    said = []
    if "git-theta" in titles:
        said.append("git-theta 0.2.0 knows no bf16 and got the same values in float32.")
    if missing:
        said.append(f"Not measured, since not given: {', '.join(sorted(missing))}.")
    return " ".join(said)
