"""What the libraries say: kept off the terminal, and heard where it tells why something failed."""

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
    """Keeps notices and progress bars of the libraries off the terminal; errors still raise."""
    import transformers  # not above: commands that load no model come by here

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
    """A block in which transformers' reports of the weights it loads are collected, not shown.

    Only they say why weights could not be loaded: the error that is raised points to them.
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
    """Why weights could not be loaded, in one line, as transformers' report of them says.

    Args:
        report: the table that `hearing_reports` hears, with the traceback of each error.
    """
    if errors := _RAISED.findall(report):
        return errors[-1]  # of several that were raised in turn, the last
    if found := _MISMATCH.search(report):
        return f"{found[1]} is {found[2]} in its files and {found[3]} in its config.json"
    return None


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
