"""The task × commit table: each cell is what that commit says, and none is measured twice."""

import shutil
from pathlib import Path

import pytest
from conftest import QUICK
from tiny import write_data

from niwfctl.errors import UnknownName, UsageError
from niwfctl.repository import Repository
from niwfctl.repository.matrix import Matrix, matrix
from niwfctl.repository.measure import Bench
from niwfctl.training.data import read_examples

Sources = dict[str, list[str]]


def learn(repository: Repository, name: str, **options: object) -> None:
    """Trains a capability on words of its own, and commits it."""
    data = write_data(repository.path.parent / f"{name}.train.jsonl", word=name)
    repository.train(name, [data], QUICK.model_copy(update={"lr": 0.05, **options}))
    repository.commit([name], f"Learn {name}")


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return {
        name: [str(write_data(tmp_path / f"{name}.jsonl", rows=12, word=name))]
        for name in ("apple", "plum", "pear")
    }


@pytest.fixture(scope="module")
def _grown(tmp_path_factory: pytest.TempPathFactory, _fresh: Path) -> Path:
    folder = tmp_path_factory.mktemp("grown") / "repository"
    repository = Repository.open(shutil.copytree(_fresh, folder))
    for seed, name in enumerate(("apple", "plum", "pear")):
        learn(repository, name, seed=seed)
    repository.git.plain("commit", "--quiet", "--allow-empty", "-m", "Nothing")
    return folder


@pytest.fixture
def grown(tmp_path: Path, _grown: Path) -> Repository:
    """Apple, then plum, then pear; after them, a commit that changes no capability."""
    return Repository.open(shutil.copytree(_grown, tmp_path / "grown"))


def measured(
    repository: Repository, sources: Sources, *rest: object, **how: object
) -> tuple[Matrix, list[str]]:
    """The table, and what had to be measured for it."""
    told = []

    def report(what: str, done: int, rows: int) -> None:
        if rows and done == 0:
            told.append(what)

    bench = Bench(repository, report, how.pop("recall", True))
    return matrix(repository, bench, sources, *rest, **how), told


def perplexities(table: Matrix) -> list[list[float]]:
    return [[one.perplexity for one in row.figures] for row in table.rows]


def test_a_cell_is_the_capability_of_that_commit_or_the_base(
    grown: Repository, sources: Sources
) -> None:
    table, _ = measured(grown, sources)
    assert [task.name for task in table.tasks] == ["apple", "plum", "pear"]
    assert [task.learnt for task in table.tasks] == [0, 1, 2]
    assert [row.commit.message for row in table.rows] == [
        "Learn apple",
        "Learn plum",
        "Learn pear",
    ]
    model = grown.load()
    for row in table.rows:
        for task, figures in zip(table.tasks, row.figures, strict=True):
            there = task.name in grown.atlas(row.commit.id)
            assert (task.name in row.there) == there
            model.use(f"{task.name}@{row.commit.id}" if there else None)
            score = model.score(read_examples(sources[task.name]))
            assert (figures.perplexity, figures.tokens) == (score.perplexity, score.tokens)
    found = table.transfer("perplexity")
    assert found.backward == found.forgetting == found.forward == 0


def test_what_is_unchanged_is_measured_once_unless_all_is_asked_for(
    grown: Repository, sources: Sources
) -> None:
    table, told = measured(grown, sources)
    assert len(told) == 6  # each by the base, and by its capability
    again, told = measured(grown, sources)
    assert again == table and not told
    again, told = measured(grown, sources, recall=False)
    assert again == table and len(told) == 12


def test_an_interrupted_table_goes_on_where_it_stopped(grown: Repository, sources: Sources) -> None:
    table, every = measured(grown, sources, recall=False)
    for file in (grown.private / "cache" / "measured").iterdir():
        file.unlink()

    def interrupt(what: str, done: int, rows: int) -> None:
        if "plum at" in what and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        matrix(grown, Bench(grown, interrupt), sources)
    again, told = measured(grown, sources)
    assert again == table
    assert [what.split(" (")[0].split(" at ")[0] for what in told] == ["plum", "pear"]
    assert len(every) == 12


def test_a_revision_and_a_removal_show_as_transfer_and_forgetting(
    grown: Repository, sources: Sources
) -> None:
    learn(grown, "apple", mode="revise", seed=9)
    grown.remove("plum")
    table, _ = measured(grown, sources)
    rows = perplexities(table)
    assert len(rows) == 5
    apple, plum, pear = zip(*rows, strict=True)
    assert apple[0] == apple[1] == apple[2] != apple[3] == apple[4]
    assert plum[1] == plum[3] and plum[0] == plum[4] == table.base[1].perplexity
    assert pear[2] == pear[4] != pear[0]
    scores = [[one.score("perplexity") for one in row.figures] for row in table.rows]
    first, second = (scores[4][task] - scores[task][task] for task in (0, 1))
    assert table.transfer("perplexity").backward == pytest.approx((first + second) / 3)
    best = [max(row[task] for row in scores[:4]) - scores[4][task] for task in range(3)]
    assert table.transfer("perplexity").forgetting == pytest.approx(sum(best) / 3)


def test_with_auto_each_row_routes_as_its_commit_did(grown: Repository, sources: Sources) -> None:
    del sources["pear"]
    table, _ = measured(grown, {**sources, "other": sources["plum"]}, auto=True)
    assert [task.name for task in table.tasks] == ["apple", "plum", "other"]
    assert [task.learnt for task in table.tasks] == [0, 1, None]
    assert table.left_out == ("pear",)
    model = grown.load()
    for row in table.rows:
        model.route(row.commit.id)
        for task, figures in zip(table.tasks, row.figures, strict=True):
            assert figures.perplexity == model.score(list(task.data.examples)).perplexity
    again, told = measured(grown, {**sources, "other": sources["plum"]}, auto=True)
    assert again == table and not told


def test_what_a_merge_brings_is_one_row(grown: Repository, sources: Sources) -> None:
    grown.git.plain("branch", "side")
    grown.git.plain("reset", "--quiet", "--hard", "HEAD~3")
    learn(grown, "fig")
    grown.merge("side")
    table, _ = measured(grown, sources)
    assert [sorted(row.there) for row in table.rows] == [
        ["apple"],
        ["apple", "fig"],
        ["apple", "fig", "pear", "plum"],
    ]
    assert table.left_out == ("fig",)
    side, _ = measured(grown, sources, "side")
    assert [task.learnt for task in side.tasks] == [0, 1, 2]


def test_a_range_begins_with_its_first_commit(grown: Repository, sources: Sources) -> None:
    every, _ = measured(grown, sources)
    part, told = measured(grown, sources, "HEAD~2..HEAD")
    assert part.rows == every.rows[1:] and not told
    assert [task.learnt for task in part.tasks] == [0, 0, 1]
    assert measured(grown, sources, "HEAD~2..")[0] == part
    to, _ = measured(grown, {"apple": sources["apple"]}, "HEAD~2")
    assert [row.commit.id for row in to.rows] == [row.commit.id for row in every.rows[:2]]


def test_data_come_from_the_gates_where_none_are_given(grown: Repository, sources: Sources) -> None:
    write_data(grown.path / "held-out.jsonl", rows=12, word="apple")
    with (grown.path / "niwf.toml").open("a") as file:
        file.write('\n[gates.apple]\ndata = "held-out.jsonl"\n')
    grown.git.plain("commit", "--quiet", "--all", "-m", "A gate")
    table, _ = measured(grown, {"pear": sources["pear"]})
    assert [task.name for task in table.tasks] == ["apple", "pear"]
    assert table.left_out == ("plum",)
    given, _ = measured(grown, {"apple": sources["apple"]})
    assert given.tasks[0].data.hash == table.tasks[0].data.hash


def test_exact_match_is_measured_where_asked(grown: Repository, sources: Sources) -> None:
    table, _ = measured(grown, {"apple": sources["apple"]}, exact_match=True, longest_answer=2)
    assert table.measures == ("perplexity", "exact_match")
    assert all(row.figures[0].exact_match == 0 for row in table.rows)
    assert table.transfer("exact_match").average == 0


def test_tables_that_cannot_be_are_refused(grown: Repository, sources: Sources) -> None:
    with pytest.raises(UnknownName, match=r"'fig': there are apple, pear, plum"):
        measured(grown, {"fig": sources["plum"]})
    with pytest.raises(UsageError, match=r"--data apple=FILE"):
        measured(grown, {})
    with pytest.raises(UnknownName, match="nowhere"):
        measured(grown, sources, "nowhere")
    with pytest.raises(UsageError, match="first-parent"):
        measured(grown, sources, "HEAD..HEAD~1")
    with pytest.raises(UsageError, match="no commit of HEAD~4 has a capability"):
        measured(grown, sources, "HEAD~4")
