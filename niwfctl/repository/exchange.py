"""The verbs of a repository that involve others and their tools: clone, bundle, import, export."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from niwfctl.several import Names, Sources, several, sources_of

if TYPE_CHECKING:
    from niwfctl.repository.commit import RoutingOptions
    from niwfctl.repository.export import Exported
    from niwfctl.repository.imports import Imported
    from niwfctl.repository.merge import Merged
    from niwfctl.repository.repository import Repository
    from niwfctl.training.loop import Progress
    from niwfctl.training.run import TrainingOptions


class Exchange:
    """What `Repository` takes from others and gives to them; remotes are at `remotes`."""

    @staticmethod
    def clone(
        url: str | Path, folder: Path | str, *, lazy: bool = False, branch: str | None = None
    ) -> Repository:
        """Clones a repository, or resumes a clone that was interrupted.

        Args:
            url: as git takes it, or a file that `write_bundle` wrote.
            folder: new, or empty.
            lazy: fetch no objects; each comes when it is first needed.
            branch: the branch or tag to check out; the remote's HEAD by default.

        Raises:
            UsageError: the folder is in the way, or a branch is asked of a bundle.
            FormatError, ObjectError: the bundle is incomplete or damaged.
            NotARepository: the remote is not a niwfctl repository.
            RemoteError: the remote cannot be reached, or git-lfs is missing.
        """
        from niwfctl.repository.clone import clone

        return clone(str(url), Path(folder), lazy, branch)

    def write_bundle(self: Repository, file: Path | str, targets: Names = ()) -> list[str]:
        """Writes capabilities alone, or a revision with its history, and all objects to one file.

        Args:
            file: to write.
            targets: `NAME` or `NAME@REV` of each capability, or one revision; by default HEAD.

        Returns:
            Names of the capabilities in it.

        Raises:
            UsageError: the file is not in an existing folder, two of the capabilities have the
                same name, or the repository is a shallow clone.
            UnknownName: there is no such revision or capability.
            ObjectError: an object is missing or corrupt.
        """
        from niwfctl.repository.bundle import create

        return create(self, Path(file), several(targets))

    def apply_bundle(self: Repository, file: Path | str) -> Merged:
        """Checks a bundle's objects and merges its history.

        Raises:
            FormatError: not a complete bundle, or of a newer version; nothing is merged.
            ObjectError: an object in it is corrupt; nothing is merged.
            Conflict, UsageError: as in `merge`.
        """
        from niwfctl.repository.bundle import apply

        return apply(self, Path(file))

    def import_adapter(
        self: Repository,
        folder: Path | str,
        name: str,
        data: Sources = (),
        *,
        prompts: str | Path | Iterable[str | Path] = (),
        message: str | None = None,
        options: TrainingOptions | None = None,
        routing: RoutingOptions | None = None,
        drop_below_tap: bool = False,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> Imported:
        """Commits a LoRA that PEFT saved, as a capability whose gates are 1 everywhere.

        Args:
            folder: with adapter_config.json and adapter_model.safetensors, or a Hugging Face id,
                whose files are downloaded unless they are in the cache.
            name: of the new capability.
            data: determines its region and its perplexity, as in `train`.
            prompts: instead of data, text files with one prompt a line; no perplexity is measured.
            message: of the git commit.
            options: only those about reading rows count; the others come from the adapter.
            routing: as in `commit`.
            drop_below_tap: leave out what it changes below the tap layer, rather than refuse it;
                needs data, whose perplexity then shows what is left.
            report: called when a stage begins.

        Raises:
            FormatError: the adapter cannot be imported here; the message says why.
            UsageError, DataError, BackboneError, Shadowed, GitError, StorageError.
        """
        from niwfctl.repository.imports import import_adapter

        return import_adapter(
            self,
            Path(folder),
            name,
            sources_of(data),
            several(prompts),
            options,
            message,
            routing,
            drop_below_tap,
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
            at: the prompt whose gates to freeze; by default those at the mean of its cell.
            data: to measure on what freezing the gates costs.

        Raises:
            UnknownName, UsageError, DataError, BackboneError, ObjectError, StorageError.
        """
        from niwfctl.repository.export import export

        return export(self, name, form, Path(target), at, sources_of(data))
