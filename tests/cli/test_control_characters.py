"""What others wrote tells a terminal nothing: control characters are shown, not obeyed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from niwfctl.repository import Repository

HOSTILE = "a\x1b[2J\x1b]0;title\x07\x9b31m\x7fb"
SHOWN = "a�[2J�]0;title�31m�b"  # rich drops the bell
ANSWER = f"from niwfctl.cli.use import _write; _write({HOSTILE!r} + '\\tc\\n')"


def on_terminal(*arguments: object) -> str:
    """What a command writes to a terminal that shows no colours."""
    end, terminal = os.openpty()
    env = {**os.environ, "NO_COLOR": "1", "TERM": "dumb", "PYTHONUTF8": "1"}
    command = [sys.executable, *map(str, arguments)]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=env) as process:
        os.close(terminal)
        said = b""
        try:
            while part := os.read(end, 1 << 16):
                said += part
        except OSError:  # how Linux says that nobody holds the terminal any more
            pass
        process.wait()
    os.close(end)
    return said.decode().replace("\r\n", "\n")


def test_a_commit_message_tells_the_terminal_nothing(committed: Repository) -> None:
    committed.remove("apple", HOSTILE)
    said = on_terminal("-m", "niwfctl", "-C", committed.path, "log")
    assert SHOWN in said and "\x1b" not in said


def test_warnings_tell_the_terminal_nothing() -> None:
    script = f"""
import logging, sys
from niwfctl.cli.main import main
sys.argv = ["niwfctl", "--version"]
try:
    main()
finally:
    logging.getLogger("niwfctl.x").warning("%s", {HOSTILE!r})
"""
    assert SHOWN in on_terminal("-c", script)


def test_the_traceback_of_an_error_that_is_logged_is_shown_and_is_harmless() -> None:
    script = f"""
import logging, sys
from niwfctl.cli.main import main
sys.argv = ["niwfctl", "--version"]
try:
    main()
finally:
    try:
        raise ValueError({HOSTILE!r} + "\\n::stop-commands::[x]")
    except ValueError:
        logging.getLogger("niwfctl.x").exception("a batch could not be answered")
"""
    said = on_terminal("-c", script)
    _, first, *trace = said.splitlines()
    assert first == "a batch could not be answered" and "\x1b" not in said
    assert trace[0] == "| Traceback (most recent call last):" and trace[1].startswith("|   File ")
    assert trace[-2:] == [f"| ValueError: {SHOWN}", "| ::stop-commands::[x]"]


def test_an_answer_is_exact_in_a_pipe_and_harmless_on_a_terminal() -> None:
    said = on_terminal("-c", ANSWER)
    assert said.startswith("a�[2J�]0;title��31m�b") and "\x1b" not in said
    piped = subprocess.check_output(
        [sys.executable, "-c", ANSWER], env=os.environ | {"PYTHONUTF8": "1"}
    )
    assert piped.decode() == f"{HOSTILE}\tc\n"


@pytest.mark.parametrize("options", [(), ("--graph",), ("--json",)])
def test_what_goes_elsewhere_is_clean_too_and_json_says_what_was_there(
    niwfctl: Callable[..., Result], committed: Repository, options: tuple[str, ...]
) -> None:
    committed.remove("apple", HOSTILE)
    said = niwfctl("-C", committed.path, "log", *options).stdout
    assert not {"\x1b", "\x07", "\x9b", "\x7f"} & set(said)
    if options == ("--json",):
        assert json.loads(said)[0]["message"] == HOSTILE


def test_a_file_whose_name_is_hostile_is_named_harmlessly(
    niwfctl: Callable[..., Result], tmp_path: Path
) -> None:
    done = niwfctl("-C", tmp_path / HOSTILE, "status")
    assert done.exit_code == 3 and "\x1b" not in done.stderr and "�[2J" in done.stderr
