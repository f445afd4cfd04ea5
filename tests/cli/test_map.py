"""The map of the capability space, in each of its forms."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from histories import place
from tiny import write_data
from typer.testing import Result

from niwfctl.repository import Repository
from niwfctl.repository.map import chart
from niwfctl.repository.record import record
from niwfctl.training.data import read_examples

Command = Callable[..., Result]
HOSTILE = '<script>document.title = "owned"</script>"><img src=x onerror=alert(1)>'


def extend(repository: Repository, name: str, by: str) -> None:
    """Makes the region of one capability a second one of another."""
    one, other = repository.capability(name), repository.capability(by)
    both = one.model_copy(update={"regions": (*one.regions, *other.regions)})
    record(repository, lambda atlas: {**atlas, name: both}, f"Extend {name}")
    repository.remove(by)


def test_the_map_says_where_regions_lie_whose_anchors_are_and_who_takes_over(
    mapped: Repository,
) -> None:
    drawn = chart(mapped)
    shell, code, private = drawn.areas
    assert [one.label for one in drawn.areas] == ["shell", "code", "private"]
    assert [one.routed for one in drawn.areas] == [True, True, False]
    assert abs(drawn.base.x) < 1e-9 and abs(drawn.base.y) < 1e-9
    for index, area in enumerate((shell, code)):
        own = [anchor for anchor in area.anchors if anchor.owner == index]
        assert len(own) > len(area.anchors) / 2
        assert {anchor.owner for anchor in area.anchors} <= {None, 0, 1}
    assert {anchor.owner for anchor in private.anchors} == {None}
    ((later, earlier, count),) = drawn.takeovers
    assert (later, earlier) == (1, 0)
    assert count == code.entry.routing.takeover[0] and count.won
    assert sum(anchor.owner == 1 for anchor in shell.anchors) <= count.won


def test_prompts_fall_where_the_model_routes_them(mapped: Repository, tmp_path: Path) -> None:
    place(mapped, "broad", 0.5, accept_shadow=True)
    examples = read_examples([str(write_data(tmp_path / "more.jsonl"))])
    drawn = chart(mapped, ["Say apple 3."], {"more": examples}, batch_size=7)
    model = mapped.load(auto=True)
    names = [None if p.owner is None else drawn.areas[p.owner].name for p in drawn.data["more"]]
    assert names == model.owners(examples)
    ((text, point),) = drawn.prompts
    assert text == "Say apple 3."
    same = drawn.data["more"][3]
    assert (point.x, point.y) == pytest.approx((same.x, same.y), abs=0.05)


def test_without_prompts_no_backbone_is_loaded(
    mapped: Repository, niwfctl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIWFCTL_BACKBONE", "/nowhere")
    assert niwfctl("-C", mapped.path, "map").exit_code == 0
    done = niwfctl("-C", mapped.path, "map", "--prompt", "hello")
    assert done.exit_code == 7 and "/nowhere" in done.stderr


def test_on_a_terminal_there_is_a_picture_and_each_region_in_words(
    mapped: Repository, niwfctl: Command, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "more.jsonl")
    options = ("--prompt", "Say\napple \x1b[2J3.", "--data", data)
    done = niwfctl("-C", mapped.path, "map", *options, env={"COLUMNS": "80"})
    assert done.exit_code == 0
    picture, words = done.stdout.split("● shell  ", 1)
    assert all(len(line) <= 80 for line in picture.splitlines())
    assert re.search("[\u2801-\u28ff]{3}", picture) and "×" in picture
    for label in ("base", "shell", "code", "private", "1"):
        assert label in picture
    assert "■ code  " in words and "of shell (95% bound" in words
    assert "▲ private  " in words and "shadow never routed to" in words
    assert "1 base: Say apple [2J3." in words and "\x1b" not in done.stdout
    assert f"{data}: 40 prompts, 100.0% base" in words


def test_the_page_shows_all_of_it_and_asks_for_nothing(
    mapped: Repository, niwfctl: Command, tmp_path: Path
) -> None:
    file = tmp_path / "map.html"
    done = niwfctl("-C", mapped.path, "map", "--html", file, "--prompt", "Say apple 3.")
    assert done.exit_code == 0 and "regions 3, prompts 1" in done.stdout
    text = file.read_text("utf-8")
    for area in chart(mapped).areas:
        assert f'id="{area.name}.{area.entry.id}"' in text
    assert text.count('class="cell aside"') == 1 and text.count('class="takeover"') == 1
    assert "Say apple 3." in text and "never routed to" in text
    assert "http://" not in text and "https://" not in text and "url(" not in text
    assert not re.search(r"\s(src|href)=|@import", text)
    assert "default-src 'none'" in text


def test_what_a_prompt_says_is_text_on_the_page(
    mapped: Repository, niwfctl: Command, tmp_path: Path
) -> None:
    file = tmp_path / "map.html"
    assert niwfctl("-C", mapped.path, "map", "--html", file, "--prompt", HOSTILE).exit_code == 0
    text = file.read_text("utf-8")
    assert text.count("<script") == 1 and "<img" not in text
    assert "&lt;script&gt;document.title" in text


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_a_picture_file_holds_the_map(
    mapped: Repository, niwfctl: Command, tmp_path: Path, name: str, begins: bytes
) -> None:
    prompts = ("--prompt", r"What is $\frac{1}{", "--prompt", "名")
    done = niwfctl("-C", mapped.path, "map", f"--{name[-3:]}", tmp_path / name, *prompts)
    assert done.exit_code == 0 and not done.stderr
    drawn = (tmp_path / name).read_bytes()
    assert drawn.startswith(begins)
    niwfctl("-C", mapped.path, "map", "--png", tmp_path / name, *prompts)
    assert (tmp_path / name).read_bytes() == drawn


@pytest.mark.parametrize("option", ["--png", "--svg"])
def test_a_picture_that_cannot_be_written_is_named_with_its_option(
    committed: Repository, niwfctl: Command, option: str
) -> None:
    done = niwfctl("-C", committed.path, "map", option, f"none/map.{option[2:]}")
    assert done.exit_code == 2 and done.stderr.startswith(f"niwfctl: {option} ")


def test_the_picture_fits_the_narrowest_terminal(mapped: Repository, niwfctl: Command) -> None:
    assert niwfctl("-C", mapped.path, "map", env={"COLUMNS": "1"}).exit_code == 0


def test_a_written_picture_may_come_with_json(
    mapped: Repository, niwfctl: Command, tmp_path: Path
) -> None:
    done = niwfctl("-C", mapped.path, "map", "--html", tmp_path / "map.html", "--json")
    told = json.loads(done.stdout)
    assert (tmp_path / "map.html").exists()
    shell, code, private = told["regions"]
    assert sum(shell["owners"].values()) == pytest.approx(1)
    assert shell["owners"][shell["region"]] > 0.5 and private["owners"] == {"base": 1}
    assert [one["region"] for one in code["takeover"]] == [shell["region"]]
    assert {point["capability"] for point in shell["anchors"]} <= {None, "shell", "code"}


def test_where_nothing_is_committed_the_base_is_alone(
    fresh: Repository, niwfctl: Command, tmp_path: Path
) -> None:
    done = niwfctl("-C", fresh.path, "map", "--prompt", "hello")
    assert done.exit_code == 0
    assert "✚ base" in done.stdout and "1 base: hello" in done.stdout and "nothing" in done.stdout
    for option in ("html", "png"):
        file = tmp_path / f"map.{option}"
        assert (
            niwfctl("-C", fresh.path, "map", f"--{option}", file).exit_code == 0 and file.exists()
        )


def test_regions_of_one_capability_look_alike_and_are_numbered(
    mapped: Repository, niwfctl: Command
) -> None:
    extend(mapped, "shell", "code")
    done = niwfctl("-C", mapped.path, "map")
    assert done.exit_code == 0
    assert "● shell 1  " in done.stdout and "● shell 2  " in done.stdout


def test_compositions_are_listed_with_what_they_are_made_of(
    mapped: Repository, niwfctl: Command, tmp_path: Path
) -> None:
    head = mapped.git.head()
    for name, method in (("both", "linear"), ("either", "routed"), ("small", "svd")):
        options = ("--name", name, "--method", method)
        done = niwfctl("-C", mapped.path, "compose", "shell", "code", *options)
        assert done.exit_code == 0, done.output
    assert niwfctl("-C", mapped.path, "map", "--html", tmp_path / "map.html").exit_code == 0
    shown = niwfctl("-C", mapped.path, "map").stdout
    for text in (shown, (tmp_path / "map.html").read_text("utf-8")):
        assert f"both is composed of +1·shell@{head[:12]}" in text
        assert "either answers with whichever of shell, code owns the prompt" in text
    told = json.loads(niwfctl("-C", mapped.path, "map", "--json").stdout)
    assert told["composed"] == ["both", "either"]
    names = [(one["capability"], one["routed"]) for one in told["regions"]]
    assert names == [("shell", True), ("code", True), ("private", False), ("small", False)]
