"""What it means that a command is refused."""

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from histories import place
from typer.testing import Result

from niwfctl.repository import Repository

PROGRESS = re.compile(
    r"(\S+: )?loading the backbone( onto \S+)?|\S+: reading coordinates|verifying|"
    r".+: measuring( the base| \d+ rows)?|\S+: training step .*"
)


def state(path: Path) -> tuple:
    """All that a refused command must leave alone."""

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", "-C", path, *arguments], capture_output=True).stdout

    kept = (path / ".git" / name for name in ("niwf-active", "niwf/training", "lfs"))
    files = (file for place in kept for file in (place, *place.rglob("*")) if file.is_file())
    stats = sorted((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return git("rev-parse", "HEAD"), git("for-each-ref"), git("status", "--porcelain"), stats


@pytest.fixture
def refused(niwfctl: Callable[..., Result]) -> Callable[..., None]:
    """`refused(where, arguments, code, *words)`: asserts the code, one sentence, no change."""

    def check(
        where: Repository | Path,
        arguments: Sequence[object],
        code: int,
        *words: object,
        **options: object,
    ) -> None:
        path = where.path if isinstance(where, Repository) else where
        before = state(path)
        result = niwfctl("-C", path, *arguments, **options)
        assert result.exit_code == code, (result.output, result.exception)
        assert not result.stdout
        lines = result.stderr.splitlines()
        (message,) = (line for line in lines if not PROGRESS.fullmatch(line))
        assert message == lines[-1] and message.startswith("niwfctl: ")
        for word in words:
            assert str(word) in message
        assert state(path) == before

    return check


@pytest.fixture(scope="session")
def _mapped(tmp_path_factory: pytest.TempPathFactory, _trained: Path) -> Path:
    folder = shutil.copytree(_trained, tmp_path_factory.mktemp("mapped") / "repository")
    repository = Repository.open(folder)
    place(repository, "shell", 5.0)
    place(repository, "code", 5.0, 0.8, max_takeover=0.2)
    place(repository, "private", -4.0, 3.0, manual=True)
    return folder


@pytest.fixture
def mapped(tmp_path: Path, _mapped: Path) -> Repository:
    """Capabilities `shell` and, beside it, `code`; `private` is never routed to."""
    return Repository.open(shutil.copytree(_mapped, tmp_path / "mapped"))
