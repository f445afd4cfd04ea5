"""Data given to commands: several files, folders and patterns."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import write_data
from typer.testing import Result

from niwfctl.cli.options import inside
from niwfctl.errors import DataError
from niwfctl.repository import Repository
from niwfctl.training.data import read_examples
from niwfctl.training.files import expanded

Command = Callable[..., Result]
Refused = Callable[..., None]
STEPS = ("--steps", 2, "--batch-size", 4, "--rank", 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files of twenty records."""
    (tmp_path / "data").mkdir()
    for word in ("pear", "plum"):
        write_data(tmp_path / "data" / f"{word}.jsonl", rows=20, word=word)
    return tmp_path / "data"


@pytest.mark.parametrize("what", ["", "*.jsonl"])
def test_a_training_on_a_folder_or_a_pattern_records_the_files_and_tells_their_number(
    fresh: Repository, folder: Path, niwfctl: Command, what: str
) -> None:
    done = niwfctl("-C", fresh.path, "train", "fruit", "--data", folder / what, *STEPS)
    assert "learned from 2 files" in done.stdout
    run = fresh.trainings.get("fruit")
    assert run.sources == [str(folder / "pear.jsonl"), str(folder / "plum.jsonl")]
    assert run.rows + run.held_out_rows == 40


def test_a_pattern_is_seen_from_the_directory_that_is_given(
    fresh: Repository, folder: Path, niwfctl: Command
) -> None:
    folder.rename(fresh.path / "data")
    done = niwfctl("-C", fresh.path, "train", "fruit", "--data", "data/p*.jsonl", *STEPS)
    assert done.exit_code == 0 and "learned from 2 files" in done.stdout


def test_a_directory_whose_name_has_the_signs_of_a_pattern_is_meant_as_it_is_written(
    folder: Path,
) -> None:
    skills, other = folder.with_name("skills[1]"), folder.with_name("skills1")
    shutil.copytree(folder, other / "data")
    skills.mkdir()
    folder.rename(skills / "data")
    wanted = [str(skills / "data" / name) for name in ("pear.jsonl", "plum.jsonl")]
    assert expanded([inside(skills, "data/p*.jsonl")]) == wanted
    assert expanded([inside(skills, "data")]) == wanted
    assert expanded([inside(skills, wanted[0])]) == wanted[:1]
    assert expanded([inside(other, f"{folder.parent}/*[[]1]/**/*.jsonl")]) == wanted


def test_a_pattern_is_not_seen_from_here_where_another_directory_is_given(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "skills").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path}/skills/data/p.*does not exist"):
        read_examples([inside(Path("skills"), "data/p*.jsonl")])
    assert inside(Path("skills"), "owner/name:train[:10]") == "owner/name:train[:10]"


@pytest.mark.parametrize(
    "command", [["train", "fruit"], ["eval"], ["route"], ["map"], ["import", "x", "--name", "y"]]
)
def test_several_files_after_one_option_are_answered_with_what_to_type(
    fresh: Repository, folder: Path, refused: Refused, command: list[str]
) -> None:
    files = sorted(folder.iterdir())
    words = f"--data {files[0]} --data {files[1]}", "in quotes"
    refused(fresh, [*command, "--data", *files], 2, *words)


def test_a_folder_in_the_place_of_an_argument_is_not_taken_for_data(
    fresh: Repository, folder: Path, niwfctl: Command
) -> None:
    done = niwfctl("-C", fresh.path, "train", "fruit", "--data", folder / "pear.jsonl", folder)
    assert done.exit_code == 2 and "unexpected extra argument" in done.stderr
