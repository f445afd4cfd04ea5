"""niwfctl: git for the capabilities of a language model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from niwfctl.repository import Repository
    from niwfctl.training.run import TrainingOptions

__all__ = ["Repository", "TrainingOptions", "__version__"]
__version__ = "0.1.0"

# GitPython must not fail at import where there is no git: niwfctl says so itself, when it matters.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


def __getattr__(name: str) -> object:
    # Imported when asked for, so that the command line starts quickly.
    if name == "Repository":
        from niwfctl.repository import Repository

        return Repository
    if name == "TrainingOptions":
        from niwfctl.training.run import TrainingOptions

        return TrainingOptions
    raise AttributeError(f"module 'niwfctl' has no attribute {name!r}")
