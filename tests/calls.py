"""Which functions of torch a block calls."""

from collections.abc import Callable

from torch.overrides import TorchFunctionMode


class Names(TorchFunctionMode):
    """The names of torch's functions that a block calls, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))
