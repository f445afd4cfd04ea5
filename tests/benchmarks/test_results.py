"""Runs that stop and go on, and tables that mix nothing."""

import json
from pathlib import Path

import pytest
from continual_plots import draw
from continual_tables import reports
from rivals.results import Key, MixedResults, Origin, Results
from rivals.run import run

ONE = Origin("abc", "sha256:00")


def key_of(method: str) -> Key:
    return Key(method, "two", 0, 10)


def figures(record: dict) -> dict:
    """What does not depend on the clock."""
    return {key: value for key, value in record.items() if key not in ("seconds", "cost")}


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", ["niwfctl", "penalty", "replay", "joint"])
def test_a_run_that_stopped_goes_on_to_the_same_figures(
    name, methods, setting, tasks, tmp_path: Path
) -> None:
    def stopping(setting):
        method = methods[name](setting)
        learn = method.learn

        def learn_one(task):
            if task is tasks[1]:
                raise Stopped
            return learn(task)

        method.learn = learn_one
        return method

    whole, broken = Results(tmp_path / "whole", ONE), Results(tmp_path / "broken", ONE)
    run(key_of(name), methods[name], setting, tasks, whole)
    with pytest.raises(Stopped):
        run(key_of(name), stopping, setting, tasks, broken)
    assert len(broken.of(key_of(name))) == 1
    again = Results(tmp_path / "broken", ONE)
    run(key_of(name), methods[name], setting, tasks, again)
    expected = [figures(record) for record in whole.of(key_of(name))]
    assert [figures(record) for record in again.of(key_of(name))] == expected
    assert not list((tmp_path / "broken" / "states").iterdir())


def test_a_finished_run_is_not_run_again(methods, setting, tasks, tmp_path: Path) -> None:
    results = Results(tmp_path, ONE)
    run(key_of("base"), methods["base"], setting, tasks, results)

    def never(setting):
        raise AssertionError

    run(key_of("base"), never, setting, tasks, Results(tmp_path, ONE))


@pytest.mark.parametrize("other", [Origin("def", ONE.backbone), Origin("abc", "sha256:11")])
def test_results_of_another_commit_or_backbone_are_refused(other: Origin, tmp_path: Path) -> None:
    Results(tmp_path, ONE).append(key_of("lora"), {"row": 0, "last": False})
    Results(tmp_path, ONE)
    with pytest.raises(MixedResults, match=f"{other}|{ONE}"):
        Results(tmp_path, other)
    with (tmp_path / "continual.jsonl").open("a") as file:
        file.write(json.dumps(vars(other)) + "\n")
    with pytest.raises(MixedResults, match="one commit and one backbone"):
        Results(tmp_path)
    with pytest.raises(MixedResults, match="one commit and one backbone"):
        reports([vars(ONE), vars(other)])


def test_a_table_of_nothing_is_refused() -> None:
    with pytest.raises(MixedResults, match="none"):
        reports([])


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path: Path) -> None:
    results = Results(tmp_path, ONE)
    results.append(key_of("lora"), {"row": 0, "last": False})
    with results.file.open("a") as file:
        file.write('{"commit": "abc", "met')
    again = Results(tmp_path, ONE)
    assert len(again.records) == 1
    again.append(key_of("lora"), {"row": 1, "last": True})
    assert len(Results(tmp_path).of(key_of("lora"))) == 2


def test_tables_and_plots_hold_what_was_measured(methods, setting, tasks, tmp_path: Path) -> None:
    results = Results(tmp_path, ONE)
    for name in ("base", "niwfctl", "lora", "penalty", "joint"):
        run(key_of(name), methods[name], setting, tasks, results)
    (report,) = reports(results.records)
    lines = {(line["method"], line["way"]): line for line in report.figures["lines"]}
    ours, plain = lines["niwfctl", "task given"], lines["lora", "no task given"]
    assert (ours["backward"], ours["forgetting"], ours["unchanged"]) == (0, 0, "2 of 2")
    assert plain["backward"] < 0 < plain["forgetting"]
    assert plain["unchanged"] == "0 of 2"
    assert lines["joint", "no task given"]["backward"] is None
    last = results.of(key_of("lora"))[-1]["scores"]["no task given"]["apple"]["perplexity"]
    assert f"{last:.3f}" in report.text
    assert "By commit abc on sha256:00" in report.text
    assert "gates between" in report.text
    draw(report, tmp_path / "curves.svg")
    assert "sequential LoRA" in (tmp_path / "curves.svg").read_text()
