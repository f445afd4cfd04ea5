"""Trainings that are discarded or renamed, and those that what is at HEAD leaves no place for."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import QUICK
from typer.testing import Result

from niwfctl.errors import Busy, TrainingInterrupted
from niwfctl.repository import Repository
from niwfctl.training.checkpoint import load, save

Command = Callable[..., Result]


def wait(repository: Repository, name: str, mode: str = "new", id: str = "") -> None:
    """Lets a finished training wait: a copy of the one of apple."""
    run, tensors = load(repository.trainings.checkpoint("apple"))
    options = run.options.model_copy(update={"mode": mode})
    run = run.model_copy(update={"name": name, "id": id or f"{name} {mode}", "options": options})
    save(repository.trainings.checkpoint(name), run, tensors)


@pytest.fixture
def stuck(trained: Repository) -> Repository:
    """The training of `fresh`, and one that revises `shell`, which was removed since."""
    wait(trained, "shell")
    wait(trained, "fresh")
    trained.commit("shell", "Shell")
    wait(trained, "shell", "revise")
    trained.discard("apple")
    trained.remove("shell")
    return trained


def waiting(repository: Repository) -> list[str]:
    return [run.name for run in repository.uncommitted()]


def test_a_discarded_training_no_longer_waits_until_undo_brings_it_back(
    niwfctl: Command, trained: Repository
) -> None:
    before, was = trained.trainings.get("apple"), trained.git.head()
    done = niwfctl("-C", trained.path, "rm", "--training", "apple")
    assert done.exit_code == 0 and "undo" in done.stdout
    assert (waiting(trained), trained.git.head()) == ([], was)
    assert niwfctl("-C", trained.path, "undo").exit_code == 0
    assert trained.trainings.get("apple") == before
    assert niwfctl("-C", trained.path, "undo").exit_code == 0
    assert waiting(trained) == []
    niwfctl("-C", trained.path, "undo")
    assert waiting(trained) == ["apple"]


def test_a_training_that_waits_gets_another_name_until_undo_takes_it_back(
    niwfctl: Command, trained: Repository
) -> None:
    was = trained.git.head()
    run, tensors = load(trained.trainings.checkpoint("apple"))
    done = niwfctl("-C", trained.path, "mv", "apple", "pear")
    assert (done.exit_code, done.stdout) == (0, "[uncommitted] renamed apple to pear\n")
    for name in ("pear", "apple") * 2:
        now, same = load(trained.trainings.checkpoint(name))
        assert now == run.model_copy(update={"name": name}) and waiting(trained) == [name]
        assert same.keys() == tensors.keys()
        for key in same:  # NaN is the coordinate of a row that was not read
            assert same[key].nan_to_num().equal(tensors[key].nan_to_num())
        assert trained.git.head() == was
        assert niwfctl("-C", trained.path, "undo").exit_code == 0
    niwfctl("-C", trained.path, "mv", "--json", "pear", "plum")
    trained.commit("plum", "Plums")
    assert set(trained.atlas()) == {"plum"} and trained.verify().ok


def test_a_training_that_is_unfinished_goes_on_under_its_new_name(
    fresh: Repository, data: Path
) -> None:
    done = iter([False, True])
    with pytest.raises(TrainingInterrupted):
        fresh.train("apple", data, QUICK, stop=lambda: next(done))
    assert fresh.rename("apple", "pear") is None
    assert fresh.train("pear", resume=True).finished and waiting(fresh) == ["pear"]


def test_a_training_is_not_renamed_where_it_could_not_be_committed_or_is_in_progress(
    refused: Callable[..., None], stuck: Repository
) -> None:
    cases = [
        (["fresh", "fresh"], 2, ["'fresh' has an uncommitted training"]),
        (["fresh", "shell"], 2, ["'shell' has an uncommitted training"]),
        (["fresh", "a b"], 2, ["'a b'"]),
        (["fresh", "new", "-m", "New"], 2, ["not committed yet", "leave out the message"]),
        (["shell", "new"], 2, ["of the capability of that name", "niwfctl rm --training shell"]),
        (["none", "new"], 4, ["'none'"]),
    ]
    for names, code, words in cases:
        refused(stuck, ["mv", *names], code, *words)
    with stuck.trainings.locked():
        refused(stuck, ["mv", "fresh", "new"], Busy.exit_code, "training lock")
    stuck.operations.undo()  # shell is there again
    refused(stuck, ["mv", "fresh", "shell"], 2, "'shell' is already a capability")


def test_a_damaged_training_can_be_discarded(niwfctl: Command, trained: Repository) -> None:
    trained.trainings.checkpoint("apple").write_bytes(b"")
    done = niwfctl("-C", trained.path, "rm", "--training", "--json", "apple")
    assert json.loads(done.stdout) == {"discarded": ["apple"]}
    assert not trained.trainings.checkpoint("apple").exists()


def test_a_training_in_progress_is_not_discarded(trained: Repository) -> None:
    with trained.trainings.locked(), pytest.raises(Busy):
        trained.discard("apple")
    assert waiting(trained) == ["apple"]


def test_nothing_is_discarded_where_one_name_is_wrong(
    refused: Callable[..., None], trained: Repository
) -> None:
    refused(trained, ["rm", "--training", "apple", "pear"], 4, "'pear'", "there are apple")
    refused(trained, ["rm", "--training", "apple", "-m", "x"], 2, "commits nothing")


def test_rm_of_a_training_says_how_to_discard_it(
    refused: Callable[..., None], trained: Repository
) -> None:
    refused(trained, ["rm", "apple"], 4, "uncommitted training", "niwfctl rm --training apple")


@pytest.mark.parametrize("names", [[], ["shell"], ["fresh", "shell"]])
def test_a_training_that_revises_what_is_not_here_is_refused_with_a_way_out(
    refused: Callable[..., None], stuck: Repository, names: Sequence[str]
) -> None:
    words = ["the training 'shell' revises a capability that is not in this commit"]
    words += ["discard this training with `niwfctl rm --training shell`"]
    words += [] if names == ["shell"] else ["`niwfctl commit fresh`"]
    refused(stuck, ["commit", *names, "-m", "all"], 4, *words)


def test_the_ways_out_of_a_stuck_training_lead_out(niwfctl: Command, stuck: Repository) -> None:
    for arguments in (["commit", "fresh", "-m", "one"], ["rm", "--training", "shell"], ["undo"]):
        done = niwfctl("-C", stuck.path, *arguments)
        assert done.exit_code == 0, done.output
    assert (list(stuck.atlas()), waiting(stuck)) == (["fresh"], ["shell"])
    stuck.rollback("shell", "HEAD~2")
    assert niwfctl("-C", stuck.path, "commit", "-m", "all").exit_code == 0


def test_a_training_whose_name_was_committed_since_is_refused_with_a_way_out(
    refused: Callable[..., None], trained: Repository
) -> None:
    wait(trained, "pear")
    main = trained.git.branch()
    trained.checkout(None, branch="side")
    trained.commit("pear", "Pears")
    trained.checkout(main)
    wait(trained, "pear", id="another")
    trained.checkout("side")
    words = ["niwfctl rm --training pear", "niwfctl mv pear OTHER", "niwfctl commit apple"]
    refused(trained, ["commit", "-m", "x"], 2, *words)


def test_a_bare_diff_says_what_it_compares_and_what_waits(
    niwfctl: Command, stuck: Repository
) -> None:
    ids = [stuck.git.resolve(one)[:7] for one in ("HEAD~1", "HEAD")]
    done = niwfctl("-C", stuck.path, "diff")
    said = "HEAD~1 ({}) against HEAD ({}), without what is not committed yet: fresh, shell"
    assert done.stderr.splitlines() == [said.format(*ids)]
    assert "shell" in done.stdout and "HEAD" not in done.stdout
    for arguments in (["--json"], ["HEAD~1"], ["HEAD~1", "HEAD"]):
        assert not niwfctl("-C", stuck.path, "diff", *arguments).stderr


def test_a_bare_diff_of_the_first_commit_compares_with_nothing(
    niwfctl: Command, fresh: Repository
) -> None:
    done = niwfctl("-C", fresh.path, "diff")
    assert done.stderr == f"nothing against HEAD ({fresh.git.head()[:7]})\n", done.output


def test_status_marks_a_training_that_cannot_be_committed(
    niwfctl: Command, stuck: Repository
) -> None:
    said = niwfctl("-C", stuck.path, "status").stdout.splitlines()
    marks = [line for line in said if "not in this commit" in line]
    assert len(marks) == 1 and "`niwfctl rm --training shell`" in marks[0]
    assert said[said.index(marks[0]) - 1].lstrip().startswith("shell:")
    found = json.loads(niwfctl("-C", stuck.path, "status", "--json").stdout)["stuck"]
    assert found == {"shell": "revises a capability that is not in this commit"}
