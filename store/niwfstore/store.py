"""Content-addressed objects in the layout of Git LFS."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import IO

from niwfstore.atomic import make_dirs, publish, temporary_file
from niwfstore.errors import CorruptObject, MalformedTensors, MissingObject, StoreError
from niwfstore.pointer import Pointer
from niwfstore.tensors import TensorBytes, check_tensors, write_tensors

_OID = re.compile(r"[0-9a-f]{64}")
_READ_ONLY = 0o444


class ObjectStore:
    """Immutable safetensors objects, each named by the sha256 of its bytes.

    Every object is hashed when it is stored, or before its first use. What was hashed is remembered
    by inode, size and modification time, since a read-only mode proves nothing about the bytes.
    """

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        """
        Args:
            root: folder of the objects, for example `.git/lfs/objects`.
            cache: folder in which to remember what was hashed; None remembers in memory only.
        """
        self.root = root
        self._memory = cache / "verified.json" if cache else None

    def path(self, oid: str) -> Path:
        """The path of the object, whether it exists or not.

        Raises:
            StoreError: `oid` is not 64 lower-case hexadecimal digits.
        """
        if not _OID.fullmatch(oid):
            raise StoreError(f"{oid!r} is not an object id: expected 64 hexadecimal digits")
        return self.root / oid[:2] / oid[2:4] / oid

    def put_tensors(
        self, tensors: Mapping[str, TensorBytes], metadata: str | None = None
    ) -> Pointer:
        """Stores tensors; equal tensors give equal ids.

        Raises:
            MalformedTensors: a buffer does not fit its shape.
            OSError: the disk is full or read-only; nothing is left behind.
        """
        with temporary_file(self.root / "tmp", _READ_ONLY) as (file, temporary):
            write_tensors(file, tensors, metadata)
            return self._keep(file, temporary)

    def put_file(self, source: Path) -> Pointer:
        """Stores a copy of a safetensors file.

        Raises:
            MalformedTensors: it is not well-formed safetensors.
            OSError: the disk is full or read-only; nothing is left behind.
        """
        check_tensors(source)
        with (
            temporary_file(self.root / "tmp", _READ_ONLY) as (file, temporary),
            source.open("rb") as original,
        ):
            shutil.copyfileobj(original, file, 1 << 20)
            return self._keep(file, temporary)

    def get(self, oid: str, size: int | None = None) -> Path:
        """The path of an object, after checking that its bytes match its name.

        Args:
            size: the size in bytes that its pointer gives, if known.

        Raises:
            MissingObject: it is not here.
            CorruptObject: it is a link, or has another size or content, or is not safetensors.
        """
        if self._verified.get(oid) != self._stamp(oid, size):
            self.verify(oid, size)
        return self.path(oid)

    def verify(self, oid: str, size: int | None = None) -> None:
        """Hashes an object again, even if remembered, and validates its header.

        Raises:
            MissingObject, CorruptObject: as in `get`.
        """
        stamp = self._stamp(oid, size)
        self._hash(oid)
        try:
            check_tensors(self.path(oid))
        except MalformedTensors as error:
            raise CorruptObject(oid, str(error)) from error
        self._remember(oid, stamp)

    def set_aside(self, oid: str, folder: Path) -> Path | None:
        """Moves an object into a folder if its bytes do not match its name.

        Its mtime becomes the time of the move, so that gc can tell its age.

        Returns:
            Its new path; None if it was whole and stayed.

        Raises:
            MissingObject: it is not here.
            OSError: the disk is read-only.
        """
        try:
            self._stamp(oid, None)
            self._hash(oid)
        except CorruptObject:
            make_dirs(folder)
            self._verified.pop(oid, None)
            with suppress(OSError):  # owned by another user
                os.utime(self.path(oid), follow_symlinks=False)
            return Path(shutil.move(self.path(oid), folder / oid))
        return None

    def __contains__(self, oid: str) -> bool:
        return self.path(oid).is_file()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(p.name for p in self.root.glob("??/??/*") if _OID.fullmatch(p.name)))

    def size(self, oid: str) -> int:
        """Size of an object in bytes.

        Raises:
            MissingObject: it is not here.
        """
        return self._stamp(oid, None)[1]

    def remove(self, oid: str) -> None:
        """Removes an object, if it is here."""
        self.path(oid).unlink(missing_ok=True)
        self._verified.pop(oid, None)

    def clean_temporary(self, older_than_seconds: float) -> int:
        """Removes files that killed writers left; returns how many."""
        oldest = time.time() - older_than_seconds
        removed = 0
        for path in (self.root / "tmp").glob(".tmp-*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime <= oldest:
                    path.unlink()
                    removed += 1
        return removed

    def _keep(self, file: IO[bytes], temporary: Path) -> Pointer:
        file.flush()
        file.seek(0)
        pointer = Pointer(hashlib.file_digest(file, "sha256").hexdigest(), file.tell())
        if not (self._holds(pointer) and self._renew(pointer.oid)):
            publish(file, temporary, self.path(pointer.oid))
            self._remember(pointer.oid, self._stamp(pointer.oid, pointer.size))
        return pointer

    def _holds(self, pointer: Pointer) -> bool:
        try:
            self.get(pointer.oid, pointer.size)
        except (MissingObject, CorruptObject):
            return False
        return True

    def _renew(self, oid: str) -> bool:
        """Touches an object so that gc treats it as new; returns whether it could."""
        try:
            os.utime(self.path(oid))
        except OSError:  # owned by another user, or gone
            return False
        self._remember(oid, self._stamp(oid, None))
        return True

    def _stamp(self, oid: str, size: int | None) -> list[int]:
        path = self.path(oid)
        try:
            stat = os.lstat(path)
        except FileNotFoundError as error:
            raise MissingObject(oid) from error
        if not path.is_file() or path.is_symlink():
            raise CorruptObject(oid, "it is not a regular file")
        if size is not None and stat.st_size != size:
            raise CorruptObject(oid, f"expected {size} bytes, found {stat.st_size}")
        return [stat.st_ino, stat.st_size, stat.st_mtime_ns]

    def _hash(self, oid: str) -> None:
        with self.path(oid).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != oid:
            raise CorruptObject(oid, f"its content hashes to {found}")

    @cached_property
    def _verified(self) -> dict[str, list[int]]:
        """Stamps by object id, from a file to which every process appends lines.

        Only a cache: objects whose lines cannot be read, as after a crash, are hashed again.
        """
        known: dict[str, list[int]] = {}
        lines: list[bytes] = []
        if self._memory:
            with suppress(OSError):
                lines = self._memory.read_bytes().split(b"\n")
        for line in lines:
            with suppress(ValueError, TypeError):
                known.update(json.loads(line))
        if len(lines) > 100 + 2 * len(known):
            self._shorten(known)
        return known

    def _remember(self, oid: str, stamp: list[int]) -> None:
        if self._verified.get(oid) == stamp:
            return
        self._verified[oid] = stamp
        if self._memory:
            with suppress(OSError):  # on a read-only disk objects can still be read
                make_dirs(self._memory.parent)
                with self._memory.open("ab", buffering=0) as file:  # one write per line
                    file.write(b"\n" + json.dumps({oid: stamp}).encode())

    def _shorten(self, known: dict[str, list[int]]) -> None:
        with suppress(OSError), temporary_file(self._memory.parent) as (file, temporary):
            file.write(json.dumps(known).encode())
            file.flush()
            os.replace(temporary, self._memory)  # need not be durable: it can be made again
