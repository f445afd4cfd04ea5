"""A tiny backbone and tiny tasks, for the methods that benchmarks compare."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from rivals.per_task import AnySsr
from rivals.protocol import Method, Setting, Task
from rivals.registry import METHODS
from tiny import write_data

from niwfctl.backbone.load import Backbone, load, resolve
from niwfctl.backbone.prompts import encode
from niwfctl.training.data import read_examples
from niwfctl.training.run import TrainingOptions

WORDS = ("apple", "zebra", "mango")
OPTIONS = TrainingOptions(steps=10, batch_size=4, rank=2, lr=0.01)


@pytest.fixture(scope="session")
def load_tiny(backbone: Path) -> Callable[[], Backbone]:
    source = resolve(str(backbone))
    return lambda: load(source)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory, load_tiny) -> list[Task]:
    folder, tokenizer = tmp_path_factory.mktemp("tasks"), load_tiny().tokenizer
    found = []
    for word in WORDS:
        file = write_data(folder / f"{word}.jsonl", 60, word)
        rows = [encode(tokenizer, example) for example in read_examples([str(file)])]
        found.append(Task(word, rows[:40], rows[40:50], rows[50:]))
    return found


@pytest.fixture(scope="session")
def setting(load_tiny) -> Setting:
    return Setting(load_tiny, OPTIONS, WORDS)


@pytest.fixture(scope="session")
def methods() -> dict[str, Callable[[Setting], Method]]:
    """All of them; a router of a size that suits a tiny model."""
    return {**METHODS, "any-ssr": partial(AnySsr, features=64)}
