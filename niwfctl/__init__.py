"""niwfctl: git for the capabilities of a language model.

Start with `Repository`; docs/library.md is a guide. Expected errors are subclasses of `NiwfError`,
in `niwfctl.errors`.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from niwfctl import errors
from niwfctl.errors import NiwfError

if TYPE_CHECKING:
    from niwfctl.backbone.scoring import Score
    from niwfctl.records import Example, Message
    from niwfctl.repository import Repository
    from niwfctl.repository.commit import RoutingOptions
    from niwfctl.repository.compose import Recipe
    from niwfctl.repository.merge import Resolution
    from niwfctl.repository.model import Model
    from niwfctl.training.data import read_examples
    from niwfctl.training.loop import Progress
    from niwfctl.training.run import Run, TrainingOptions

__all__ = [
    "Example",
    "Message",
    "Model",
    "NiwfError",
    "Progress",
    "Recipe",
    "Repository",
    "Resolution",
    "RoutingOptions",
    "Run",
    "Score",
    "TrainingOptions",
    "__version__",
    "errors",
    "read_examples",
]
__version__ = "0.8.0"

# GitPython must not fail at import if git is missing: niwfctl reports that when it matters.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

# Imported on demand, so that the command line starts quickly.
_LAZY = {
    "Example": "niwfctl.records",
    "Message": "niwfctl.records",
    "Model": "niwfctl.repository.model",
    "Progress": "niwfctl.training.loop",
    "Recipe": "niwfctl.repository.compose",
    "Repository": "niwfctl.repository",
    "Resolution": "niwfctl.repository.merge",
    "RoutingOptions": "niwfctl.repository.commit",
    "Run": "niwfctl.training.run",
    "Score": "niwfctl.backbone.scoring",
    "TrainingOptions": "niwfctl.training.run",
    "read_examples": "niwfctl.training.data",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'niwfctl' has no attribute {name!r}")
    found = getattr(import_module(_LAZY[name]), name)
    if hasattr(found, "model_rebuild"):
        found.model_rebuild()  # until then help() would not name its fields
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
