"""Dependencies point down: a package imports only what lies below it, wherever a file does so."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLAIN = {"errors", "layout", "paths", "records", "several", "tensors"}
BELOW = {  # of niwfctl, beside the package itself
    "field": set(),
    "git": PLAIN,
    "backbone": {*PLAIN, "field"},
    "training": {*PLAIN, "field", "backbone"},
    "repository": {
        *(*PLAIN, "field", "backbone", "training", "git", "__version__"),
        *("atlas", "config", "continual", "recent", "storage", "typed"),
    },
}
NEVER = {  # of other packages
    "niwfctl/field": {"git", "niwfstore", "os", "pathlib", "safetensors", "transformers"},
    "niwfctl/git": {"torch", "transformers"},
    "niwfctl/backbone": {"git"},
    "niwfctl/training": {"git"},
    "store/niwfstore": {"git", "niwfctl", "torch", "transformers"},
}


def imported(folder: Path) -> set[tuple[str, str]]:
    """The files of a folder, each with the modules that it imports anywhere."""
    found = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {(file.name, alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module == "niwfctl":
                found |= {(file.name, f"niwfctl.{alias.name}") for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((file.name, node.module))
    assert found
    return found


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    parts = [(file, *name.split(".")) for file, name in imported(ROOT / "niwfctl" / package)]
    own = [(file, *rest) for file, top, *rest in parts if top == "niwfctl"]
    assert not [one for one in own if one[1] not in {package, *BELOW[package]}]


@pytest.mark.parametrize("folder", NEVER)
def test_a_package_knows_nothing_of_what_is_not_its_job(folder: str) -> None:
    wrong = [one for one in imported(ROOT / folder) if one[1].split(".")[0] in NEVER[folder]]
    assert not wrong
