"""Help, completion, and what a command need not load."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import Result

from niwfctl.cli.main import MODULE_OF, app
from niwfctl.repository import Repository

Command = Callable[..., Result]
NIWFCTL = str(Path(sys.executable).with_name("niwfctl"))


def commands_of(group: TyperGroup) -> Iterator[str]:
    """Every command by name, those within others by both names."""
    for name, command in group.commands.items():
        yield name
        yield from (f"{name} {inner}" for inner in getattr(command, "commands", ()))


@pytest.mark.parametrize("command", list(commands_of(get_command(app))))
def test_help_explains_every_argument_and_option(niwfctl: Command, command: str) -> None:
    result = niwfctl(*command.split(), "--help", env={"COLUMNS": "200"})
    assert result.exit_code == 0
    found = get_command(app)
    for name in command.split():
        found = found.commands[name]
    for parameter in found.params:
        assert parameter.help and parameter.help[:40].split("\n")[0] in result.stdout
        for option in parameter.opts:
            assert option in result.stdout or not option.startswith("-")


def test_rollback_of_everything_needs_a_revision_as_its_help_says(
    niwfctl: Command, committed: Repository
) -> None:
    shown = niwfctl("rollback", "--help", env={"COLUMNS": "200"}).stdout
    assert "without it everything, which needs --to" in shown
    assert "By default the version of NAME before this one" in shown
    done = niwfctl("-C", committed.path, "rollback")
    assert done.exit_code == 2 and "give --to REV for everything" in done.stderr


def test_help_lists_the_commands_in_the_order_of_their_work(niwfctl: Command) -> None:
    text = niwfctl("--help").stdout
    found = [command for command in re.findall(r"^│ (\w+) ", text, re.M) if command in MODULE_OF]
    assert found == list(MODULE_OF)


def test_shell_completion_completes_commands() -> None:
    named = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # no shell above us
    show = [NIWFCTL, "--show-completion", "bash"]
    script = subprocess.run(show, env=named, check=True, capture_output=True)
    assert b"complete -o default -F _niwfctl_completion niwfctl" in script.stdout
    line = {"_NIWFCTL_COMPLETE": "complete_bash", "COMP_WORDS": "niwfctl ch", "COMP_CWORD": "1"}
    done = subprocess.run([NIWFCTL], env=os.environ | line, capture_output=True, text=True)
    assert done.stdout.split() == ["checkout", "check"]


@pytest.mark.parametrize("command", [["status"], ["log"], ["show", "apple"], ["diff"]])
def test_commands_without_a_model_never_import_torch(
    committed: Repository, command: list[str]
) -> None:
    program = (
        "import sys\nfrom niwfctl.cli.main import app\n"
        "try: app(sys.argv[1:])\nexcept SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", program, "-C", committed.path, *command],
        check=True,
        stdout=subprocess.DEVNULL,
    )
