"""The page of the map in a real browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from tiny import write_data

from niwfctl.cli.drawing.page import page
from niwfctl.repository import Repository
from niwfctl.repository.map import chart
from niwfctl.training.data import read_examples

pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="needs chromium: install it with `apt-get install chromium`"
)
HOSTILE = '<script>document.title = "owned"</script>"><img src=x onerror="document.title=1">'
MIDDLE = """(() => {
  const box = document.querySelector('%s').getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})()"""
TIP = "tip.hidden ? null : tip.innerText"
OVERLAPPING = """(() => {
  const words = [...document.querySelectorAll("#map text")];
  const boxes = words.map((word) => word.getBoundingClientRect());
  const meet = (a, b) =>
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  return words.filter((_, i) => boxes.some((box, j) => i !== j && meet(boxes[i], box)))
    .map((word) => word.textContent);
})()"""
COLOURS = """['body', 'body > .faint', '#tip', 'th', '#map text', '#map'].map((name) => {
  const style = getComputedStyle(document.querySelector(name));
  return [style.color, style.backgroundColor, style.fill];
})"""


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory, _mapped: Path) -> str:
    """The address of a page with two prompts, one of them hostile, and those of a file."""
    folder = tmp_path_factory.mktemp("page")
    examples = read_examples([str(write_data(folder / "more.jsonl"))])
    drawn = chart(Repository.open(_mapped), ["Say apple 3.", HOSTILE], {HOSTILE: examples})
    file = folder / "map.html"
    file.write_text(page(drawn, HOSTILE), "utf-8")
    return file.as_uri()


@pytest.fixture(scope="session")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(_browser: Browser, written: str) -> Browser:
    """A browser that has just opened the page."""
    _browser.visit("about:blank")
    _browser.requests.clear()
    _browser.prefer("light")
    _browser.visit(written)
    return _browser


def test_the_pointer_over_a_region_shows_what_it_is_and_away_from_it_nothing(
    browser: Browser,
) -> None:
    assert browser.value(TIP) is None
    browser.point(*browser.value(MIDDLE % '[id^="code."]'))
    name, *lines = browser.value(TIP).splitlines()
    assert name == "code"
    said = dict(line.split(": ", 1) for line in lines)
    assert re.fullmatch("[0-9a-f]{12}", said["region"])
    assert re.fullmatch(r"[\d.]+ \(base\) → [\d.]+", said["perplexity"])
    assert said["anchors"].endswith("% own") or "% own, " in said["anchors"]
    assert said["takes over"].startswith(tuple("123456789")) and "of shell" in said["takes over"]
    assert "shadow" in said
    browser.point(2, 2)
    assert browser.value(TIP) is None


def test_anchors_takeover_and_prompts_of_files_say_what_they_are(browser: Browser) -> None:
    for kind, words in (
        ("path.anchors", "anchors\nanswered by: "),
        ("path.takeover", "code → shell\ntakes over "),
        ("path.scatter", "40 of 40 prompts\nanswered by: base"),
    ):
        said = browser.value(f"document.querySelector('{kind}').dataset.says")
        assert words in said
        event = "new PointerEvent('pointermove', {bubbles: true, clientX: 9, clientY: 9})"
        browser.value(f"document.querySelector('{kind}').dispatchEvent({event})")
        assert browser.value(TIP) == said


def test_the_keyboard_reaches_every_region_and_prompt_and_escape_hides_what_they_say(
    browser: Browser,
) -> None:
    reached = []
    for _ in range(6):
        browser.press("Tab")
        reached.append(browser.value(TIP).splitlines()[0])
    assert sorted(reached) == ["base", "code", "private", "prompt 1", "prompt 2", "shell"]
    browser.press("Escape")
    assert browser.value(TIP) is None


def test_an_address_with_a_name_goes_to_its_region_or_prompt(
    browser: Browser, written: str
) -> None:
    browser.visit(f"{written}#prompt-1")
    assert browser.value(TIP) == "prompt 1\nSay apple 3.\nanswered by: base"


def test_what_prompts_files_and_folders_are_called_stays_text(browser: Browser) -> None:
    assert browser.value("document.title") == f"Capability space of {HOSTILE}"
    assert browser.value("document.querySelectorAll('script, img').length") == 1
    browser.value("document.getElementById('prompt-2').focus()")
    assert HOSTILE in browser.value(TIP)
    assert browser.value("tip.querySelectorAll('script, img').length") == 0


def test_a_script_that_got_into_the_page_would_not_run(browser: Browser) -> None:
    browser.value("""document.body.append(Object.assign(
        document.createElement("script"), {textContent: "document.title = 'owned'"}))""")
    assert browser.value("document.title") != "owned"


def test_the_page_asks_for_nothing_but_itself(browser: Browser, written: str) -> None:
    assert browser.requests == [written]


def test_no_label_covers_another(browser: Browser) -> None:
    assert browser.value("document.querySelectorAll('#map text').length") == 6
    assert browser.value(OVERLAPPING) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_in_both_colour_schemes(browser: Browser, scheme: str) -> None:
    browser.prefer(scheme)
    body, faint, tip, heading, word, paper = browser.value(COLOURS)
    assert (brightness(body[1]) > 0.5) == (scheme == "light")
    for ink, ground in (
        (body[0], body[1]),
        (faint[0], body[1]),
        (heading[0], body[1]),
        (tip[0], tip[1]),
        (word[2], paper[1]),
    ):
        light, dark = sorted((brightness(ink), brightness(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2, level AA


def test_the_browser_draws_it(browser: Browser) -> None:
    """Not a blank page: a screenshot of so many colours takes its bytes."""
    drawn = browser.screenshot()
    browser.visit("about:blank")
    assert drawn.startswith(b"\x89PNG") and len(drawn) > 10 * len(browser.screenshot())


def brightness(colour: str) -> float:
    """Relative luminance of `rgb(…)`, as WCAG 2 has it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
