"""Output of the libraries: kept off the terminal, but read where it explains a failure."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_RAISED = re.compile(
    r"^Traceback \(most recent call last\):\n(?:[ \t].*\n)+(?:[\w.]+: )?(.+)$", re.MULTILINE
)
_MISMATCH = re.compile(
    r"^(.+?) +\| .*ckpt: torch\.Size\((.+?)\) vs model: ?torch\.Size\((.+?)\)", re.MULTILINE
)


@contextmanager
def quiet() -> Iterator[None]:
    """A block in which the libraries print no notices or progress bars; errors still raise."""
    import transformers  # not above: commands that load no model import this module, too

    bitsandbytes = logging.getLogger("bitsandbytes")
    level = bitsandbytes.level
    verbosity = transformers.logging.get_verbosity()
    showed_progress = transformers.logging.is_progress_bar_enabled()
    bitsandbytes.setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        bitsandbytes.setLevel(level)
        transformers.logging.set_verbosity(verbosity)
        if showed_progress:
            transformers.logging.enable_progress_bar()


@contextmanager
def hearing_reports() -> Iterator[list[str]]:
    """A block in which transformers' reports on loading weights are collected, not shown.

    Only they say why weights could not be loaded: the error that is raised refers to them.
    """
    logger, heard = logging.getLogger("transformers.modeling_utils"), _Heard()
    level, propagates = logger.level, logger.propagate
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.addHandler(heard)
    try:
        yield heard.said
    finally:
        logger.removeHandler(heard)
        logger.propagate = propagates
        logger.setLevel(level)


def reported_cause(report: str) -> str | None:
    """Why weights could not be loaded, in one line, from transformers' report.

    Args:
        report: the table that `hearing_reports` collects, with the traceback of each error.
    """
    if errors := _RAISED.findall(report):
        return errors[-1]  # the last of a chain of errors
    if found := _MISMATCH.search(report):
        return f"{found[1]} is {found[2]} in its files and {found[3]} in its config.json"
    return None


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
