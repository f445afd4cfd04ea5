"""Git LFS pointers: small texts that git stores in place of objects."""

from __future__ import annotations

import re
from dataclasses import dataclass

from niwfstore.errors import MalformedPointer

LARGEST = 1024
_PATTERN = re.compile(
    r"version https://git-lfs\.github\.com/spec/v1\n"
    r"oid sha256:(?P<oid>[0-9a-f]{64})\n"
    r"size (?P<size>0|[1-9][0-9]{0,18})\n"
)


@dataclass(frozen=True, slots=True)
class Pointer:
    """Names an object by sha256 and size in bytes (Git LFS specification, version 1)."""

    oid: str
    size: int

    def text(self) -> str:
        """The pointer's text, as git-lfs writes it."""
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.oid}\nsize {self.size}\n"
        )

    @classmethod
    def parse(cls, data: bytes | str) -> Pointer:
        """Reads a pointer.

        Raises:
            MalformedPointer: anything but a canonical version 1 pointer.
        """
        if len(data) >= LARGEST:
            raise MalformedPointer(f"it has {len(data)} bytes, expected fewer than {LARGEST}")
        try:
            text = data.decode("ascii") if isinstance(data, bytes) else data
        except UnicodeDecodeError as error:
            raise MalformedPointer("it is not ASCII text") from error
        match = _PATTERN.fullmatch(text)
        if not match:
            raise MalformedPointer("expected the lines version, oid sha256 and size, in this order")
        return cls(match["oid"], int(match["size"]))
