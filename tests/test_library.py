"""What `import niwfctl` gives to those who write Python."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from conftest import QUICK

import niwfctl
from niwfctl.errors import UnknownName, UsageError
from niwfctl.records import Message
from niwfctl.repository import Repository
from niwfctl.repository.measure import Data
from niwfctl.training.data import read_examples


def test_one_file_or_name_may_be_given_where_several_are_expected(
    fresh: Repository, data: Path
) -> None:
    run = fresh.train("plum", data, QUICK)
    assert run.sources == [str(data)]
    fresh.commit("plum", "Plums")
    assert fresh.verify("plum").ok
    fresh.compose("plum", "jam")
    assert [part.of.split("@")[0] for part in fresh.capability("jam").parts] == ["plum"]
    assert read_examples(data) == read_examples(str(data)) == read_examples([data])
    assert Data.read(data).hash == run.data_hash


def test_a_commit_wants_a_message(trained: Repository) -> None:
    with pytest.raises(TypeError, match="message"):
        trained.commit(["apple"])
    with pytest.raises(UsageError, match=r"an empty commit message: say what was trained$"):
        trained.commit("apple", " ")


def test_an_empty_prompt_is_refused(committed: Repository) -> None:
    model = committed.load("apple")
    for empty in ("", " \n", [], [Message("user", "")]):
        with pytest.raises(UsageError, match="the prompt is empty"):
            model.generate(empty)


def test_what_users_need_is_there_by_name_and_listed() -> None:
    listed = dir(niwfctl)
    for name in niwfctl.__all__:
        assert getattr(niwfctl, name) is not None and name in listed
    assert niwfctl.Repository is Repository and niwfctl.errors.UsageError is UsageError
    assert issubclass(UsageError, niwfctl.NiwfError)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        niwfctl.Nothing  # noqa: B018


def test_options_name_their_fields_before_any_was_made() -> None:
    program = "import inspect, niwfctl; print(inspect.signature(niwfctl.TrainingOptions))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert "lr: " in done.stdout and "val_split: " in done.stdout
    assert niwfctl.TrainingOptions(reuse="auto").reuse == ("auto",)


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "pydantic", "git", "typer", "numpy")
    program = f"import sys, niwfctl; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout.split() == [b"[]"]


@pytest.mark.parametrize("package", ["niwfctl", "niwfstore"])
def test_type_checkers_read_the_annotations(package: str) -> None:
    assert files(package).joinpath("py.typed").is_file()


def test_branches_tags_and_remotes_are_made_listed_and_deleted(committed: Repository) -> None:
    branches, tags, remotes = committed.branches, committed.tags, committed.remotes
    first = committed.git.resolve("HEAD~1")
    branches.make("side", "HEAD~1")
    assert ("side", first) in [(ref.name, ref.commit) for ref in branches.entries()]
    assert "side" in branches.text()
    branches.delete("side")
    assert [ref.name for ref in branches.entries()] == [committed.git.branch()]
    with pytest.raises(UnknownName, match="no branch is called 'side': there are"):
        branches.delete("side")
    tags.make("v1", message="First")
    assert [(ref.name, ref.subject) for ref in tags.entries()] == [("v1", "First")]
    assert "First" in tags.text()
    tags.delete("v1")
    with pytest.raises(UnknownName, match="no tag is called 'v1': there are none yet"):
        tags.delete("v1")
    remotes.add("origin", "/there")
    assert remotes.urls() == {"origin": "/there"}
    remotes.remove("origin")
    with pytest.raises(UnknownName, match="no remote is called 'origin'"):
        remotes.remove("origin")
