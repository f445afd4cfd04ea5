"""Errors of the store; those about an object name it."""


class StoreError(Exception):
    """Base of all errors of the store."""


class MissingObject(StoreError):
    """An object that is not in the store."""

    def __init__(self, oid: str) -> None:
        super().__init__(f"object {oid} is not in the store")
        self.oid = oid


class CorruptObject(StoreError):
    """An object whose bytes do not match its name."""

    def __init__(self, oid: str, reason: str) -> None:
        super().__init__(f"object {oid} is corrupt: {reason}")
        self.oid = oid
        self.reason = reason


class MalformedPointer(StoreError):
    """Text that is not a Git LFS pointer."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"not a Git LFS pointer: {reason}")


class MalformedTensors(StoreError):
    """A file, or tensors to be written, that safetensors would not accept."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"not well-formed safetensors: {reason}")
