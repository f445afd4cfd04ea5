"""The documentation says what is so: its reference is current, its links lead somewhere."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def test_the_command_reference_is_what_the_command_line_says() -> None:
    reference = runpy.run_path(str(DOCS / "make_commands.py"))["reference"]
    assert (DOCS / "commands.md").read_text("utf-8") == reference(), (
        "python docs/make_commands.py writes it anew"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_something(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    files = [target.partition("#")[0] for target in targets if "://" not in target]
    missing = [file for file in files if file and not (page.parent / file).exists()]
    assert not missing


def test_the_index_lists_every_page() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "README.md").read_text("utf-8")))
    assert listed == {page.name for page in DOCS.glob("*.md")} - {"README.md"}
