"""What git has and niwfctl has not: told what serves instead, and that it does."""

import re
import subprocess
from collections.abc import Callable

import pytest
from typer.testing import Result

from niwfctl.cli.habits import INSTEAD, PLAIN
from niwfctl.cli.main import MODULE_OF
from niwfctl.repository import Repository

Command = Callable[..., Result]


@pytest.mark.parametrize("command", [*INSTEAD, *PLAIN])
def test_a_command_of_git_is_answered_with_what_serves_instead(
    niwfctl: Command, command: str
) -> None:
    done = niwfctl(command, "-x", "anything")
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"niwfctl: there is no `niwfctl {command}`: ")
    named = re.findall(r"`niwfctl ([a-z][a-z-]*)", line)
    assert set(named) - {command} <= set(MODULE_OF) and command not in MODULE_OF


def test_a_mistyped_command_still_gets_a_suggestion(niwfctl: Command) -> None:
    done = niwfctl("comit")
    assert done.exit_code == 2 and "'commit'" in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        *("archive HEAD", "bisect log", "config user.name", "describe --always", "grep -e ."),
        *("ls-files", "ls-tree HEAD", "notes list", "rev-list HEAD", "rev-parse HEAD"),
        *("shortlog HEAD", "worktree list", "reflog", "rebase HEAD~1", "stash list"),
    ],
)
def test_plain_git_works_in_a_repository(committed: Repository, line: str) -> None:
    if line == "bisect log":
        committed.git.plain("bisect", "start")
    done = subprocess.run(["git", "-C", committed.path, *line.split()], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert list(committed.atlas()) == ["apple"]


@pytest.mark.parametrize("revision", ["HEAD~1", "side"])
def test_a_revision_in_place_of_a_name_is_told_how_to_go_back_to_it(
    refused: Callable[..., None], committed: Repository, revision: str
) -> None:
    committed.git.plain("branch", "side")
    words = [f"'{revision}' is no capability", f"`niwfctl rollback --to {revision}`"]
    refused(committed, ["rollback", revision], 2, *words)
    refused(committed, ["rollback", "nothing"], 4, "'nothing'")
