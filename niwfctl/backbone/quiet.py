"""Keeping what the libraries say off the terminal."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


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
