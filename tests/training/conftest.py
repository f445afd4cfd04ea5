"""Files of data."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file, objects as one line of JSON each, and tells its path."""

    def write(name: str, *parts: object) -> str:
        lines = [p if isinstance(p, bytes) else (json.dumps(p) + "\n").encode() for p in parts]
        (tmp_path / name).write_bytes(b"".join(lines))
        return str(tmp_path / name)

    return write


@pytest.fixture
def write_parquet(tmp_path: Path) -> Write:
    import pyarrow
    import pyarrow.parquet

    def write(name: str, *records: dict) -> str:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records)), tmp_path / name)
        return str(tmp_path / name)

    return write
