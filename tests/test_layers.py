"""Dependencies point down: no package imports from one above it, not even where a function does."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ABOVE = {
    "niwfctl/repository": {"cli", "serve"},
    "niwfctl/training": {"cli", "serve", "repository"},
    "niwfctl/backbone": {"cli", "serve", "repository", "training"},
    "niwfctl/git": {"cli", "serve", "repository", "training", "backbone", "field"},
    "niwfctl/field": {"cli", "serve", "repository", "training", "backbone"},
    "store/niwfstore": {""},
}


def imported(file: Path) -> set[str]:
    """Modules that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("package", ABOVE)
def test_a_package_imports_nothing_from_above_it(package: str) -> None:
    above = tuple(f"niwfctl.{name}".rstrip(".") for name in ABOVE[package])
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        (file.name, module)
        for file in files
        for module in imported(file)
        if any(module == name or module.startswith(f"{name}.") for name in above)
    }
    assert not wrong
