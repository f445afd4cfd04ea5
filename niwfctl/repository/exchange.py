"""The verbs of a repository that concern other tools: import and export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from niwfctl.several import Sources, several

if TYPE_CHECKING:
    from niwfctl.repository.commit import RoutingOptions
    from niwfctl.repository.export import Exported
    from niwfctl.repository.imports import Imported
    from niwfctl.repository.repository import Repository
    from niwfctl.training.loop import Progress
    from niwfctl.training.run import TrainingOptions


class Exchange:
    """What `Repository` takes from other tools and gives to them."""

    def import_adapter(
        self: Repository,
        folder: Path | str,
        name: str,
        data: Sources = (),
        *,
        prompts: Sources = (),
        message: str | None = None,
        options: TrainingOptions | None = None,
        routing: RoutingOptions | None = None,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> Imported:
        """Commits a LoRA that PEFT saved, as a capability whose gates are 1 everywhere.

        Args:
            folder: with adapter_config.json and adapter_model.safetensors.
            data: what gives its region and its perplexity, as in `train`.
            prompts: instead, text files with one prompt a line; nothing is measured then.
            options: those that say how rows are read; the others are the adapter's own.
            routing: as in `commit`.

        Raises:
            FormatError: the adapter cannot be imported here; the message says why.
            UsageError, DataError, BackboneError, Shadowed, GitError, StorageError.
        """
        from niwfctl.repository.imports import import_adapter

        return import_adapter(
            self,
            Path(folder),
            name,
            several(data),
            several(prompts),
            options,
            message,
            routing,
            report,
        )

    def export(
        self: Repository,
        name: str,
        target: Path | str,
        form: str = "peft",
        *,
        at: str | None = None,
        data: Sources = (),
    ) -> Exported:
        """Writes a capability for other tools, its gates frozen at one coordinate.

        Args:
            name: `NAME` or `NAME@REV`.
            target: a folder that is new or empty, or, for `gguf-lora`, a new file.
            form: `peft` (a LoRA directory), `merged` (full weights) or `gguf-lora` (llama.cpp).
            at: the prompt whose gates to take; by default those at the mean of its cell.
            data: where to measure what freezing the gates costs.

        Raises:
            UnknownName, UsageError, DataError, BackboneError, ObjectError, StorageError.
        """
        from niwfctl.repository.export import export

        return export(self, name, form, Path(target), at, several(data))
