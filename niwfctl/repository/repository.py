"""Repository: one object behind the command line and the Python API."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from niwfstore import ObjectStore

from niwfctl.atlas import Atlas, Capability, get_capability, parse_target
from niwfctl.config import FILE, Config
from niwfctl.errors import NotARepository
from niwfctl.git.git import Git
from niwfctl.git.refs import Branches, Tags
from niwfctl.layout import MANIFESTS, OBJECTS, PRIVATE
from niwfctl.repository.checkout import active, checkout, names_capability
from niwfctl.repository.exchange import Exchange
from niwfctl.repository.history import History
from niwfctl.repository.inspection import Inspection
from niwfctl.repository.lock import lock
from niwfctl.repository.objects import obtain
from niwfctl.repository.operations import Operations
from niwfctl.repository.remote import Remotes
from niwfctl.repository.trainings import Trainings
from niwfctl.several import Names, Sources, several, sources_of

if TYPE_CHECKING:
    from niwfctl.repository.commit import Committed, RoutingOptions
    from niwfctl.repository.compose import Composed, Recipe
    from niwfctl.repository.merge import Merged, Resolution
    from niwfctl.repository.model import Model
    from niwfctl.repository.rewrite import Rollback
    from niwfctl.repository.verify import Report
    from niwfctl.training.loop import Progress
    from niwfctl.training.run import Run, TrainingOptions

COMMIT_PATIENCE = 60.0  # seconds to wait for another commit


class Repository(Exchange, Inspection):
    """A niwfctl repository: a git repository with capabilities.

    What is committed is read from git's commits, never from the work tree, so neither an edited
    file nor a crash half-way changes what a revision means.
    """

    def __init__(self, git: Git) -> None:
        self.git = git
        self.private = git.common / PRIVATE
        self.store = ObjectStore(git.common / "lfs" / "objects", self.private / "cache")
        self.trainings = Trainings(self.private / "training")
        self.history = History(git)
        self.operations = Operations(self)
        self.branches = Branches(git)
        self.tags = Tags(git)
        self.remotes = Remotes(self)
        self._atlases: dict[str, Atlas] = {}
        self._manifests: dict[tuple[str, str], Capability] = {}  # by path and blob
        self._config: tuple[object, Config] | None = None  # (HEAD's stamp, what was read there)
        self._holding = threading.local()  # `alone`: what `writing` yielded to this thread

    @classmethod
    def init(
        cls,
        path: Path | str = ".",
        *,
        model: str = "smollm2",
        revision: str | None = None,
        quant: str = "none",
        tap_layer: int | None = None,
        dim: int | None = None,
        template_args: Mapping[str, bool | int | float | str] | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Repository:
        """Makes a repository: pins the backbone, fits the coordinate map, commits both.

        Args:
            path: folder; may be an existing git repository.
            model: `smollm2`, a folder with safetensors, a GGUF file, or a hub id.
            revision: of a hub model.
            quant: `nf4` or `none`.
            tap_layer: first adapted layer; by default an eighth of the way up.
            dim: number of coordinates d; 128 unless the backbone is narrower than 256.
            template_args: arguments of the backbone's chat template, such as
                `{"enable_thinking": False}`, for all that is ever trained and answered here.
            progress: called with (calibration prompts done, in all).

        Raises:
            UsageError: it already is a niwfctl repository, or an option is out of range.
            BackboneError: the backbone is missing or not supported.
            GitError: git knows no identity.
        """
        from niwfctl.repository.init import initialize

        given = template_args or {}
        return cls(initialize(Path(path), model, revision, quant, tap_layer, dim, given, progress))

    @classmethod
    def open(cls, path: Path | str = ".") -> Repository:
        """The repository that contains `path`.

        Raises:
            NotARepository: there is none.
            FormatError: its format is newer than this version.
        """
        repository = cls(Git.open(Path(path)))
        _ = repository.config
        return repository

    def __reduce__(self) -> tuple[Callable[[Path], Repository], tuple[Path]]:
        """For other processes, and for copies: the same repository, opened anew."""
        return type(self).open, (self.path,)

    @property
    def path(self) -> Path:
        """The work tree."""
        return self.git.worktree

    @property
    def config(self) -> Config:
        """niwf.toml of the current HEAD."""
        stamp = self.git.head_stamp()
        if self._config is None or self._config[0] != stamp:
            self._config = stamp, self._read_config()
        return self._config[1]

    def _read_config(self) -> Config:
        head = self.git.head()
        content = self.git.blob(head, FILE) if head else None
        if content is None:
            raise NotARepository(
                f"{self.path} is a git repository without {FILE} at HEAD: check out a branch that "
                "has it with `git checkout BRANCH`, or make one with `niwfctl init`"
            )
        return Config.parse(content)

    def atlas(self, revision: str = "HEAD") -> Atlas:
        """All capabilities of a revision.

        Raises:
            UnknownName: there is no such revision.
        """
        commit = revision if revision in self._atlases else self.git.resolve(revision)
        if commit not in self._atlases:
            listed = self.git.files(commit, MANIFESTS).items()
            found = self._parsed([(path, blob) for path, blob in listed if path.endswith(".json")])
            self._atlases[commit] = {capability.name: capability for capability in found}
        return self._atlases[commit]

    def _parsed(self, files: Sequence[tuple[str, str]]) -> list[Capability]:
        """The manifests at these paths, with these blobs; most are shared between commits."""
        new = [file for file in files if file not in self._manifests]
        contents = self.git.blobs(blob for _, blob in new)
        for path, blob in new:
            self._manifests[path, blob] = Capability.parse(contents[blob], path)
        return [self._manifests[file] for file in files]

    def capability(self, target: str) -> Capability:
        """The capability that `NAME` or `NAME@REV` names.

        Raises:
            UnknownName: there is no such capability or revision; the message lists what there is.
        """
        name, revision = parse_target(target)
        return get_capability(self.atlas(revision), name, revision)

    @property
    def active(self) -> str | None:
        """What is checked out: `NAME` or `NAME@COMMIT`; None for the bare backbone."""
        return active(self)

    def checkout(self, target: str | None, branch: str | None = None) -> str:
        """Makes a capability the active one, or moves the work tree to a branch, tag or commit.

        Args:
            target: `NAME`, `NAME@REV`, a revision, or None for the bare backbone.
            branch: to create at the target (a revision, HEAD by default) and to check out.

        Returns:
            What is active or checked out now, in one line.

        Raises:
            UnknownName: nothing has that name.
            UsageError: both a capability and a branch or tag have that name, or git refuses.
        """
        return checkout(self, target, branch)

    def names_capability(self, target: str) -> bool:
        """Whether a target is a capability (else it can only be a revision).

        Raises:
            UsageError: it is both a capability and a branch or tag.
        """
        return names_capability(self, target)

    def train(
        self,
        name: str,
        data: Sources = (),
        options: TrainingOptions | None = None,
        *,
        val_data: Sources = (),
        resume: bool = False,
        finish: bool = False,
        restart: bool = False,
        report: Callable[[Progress], None] = lambda progress: None,
        stop: Callable[[], bool] | None = None,
    ) -> Run:
        """Trains a new capability; it stays uncommitted until `commit`.

        Args:
            name: of the capability.
            data: a file or hub dataset id, several, or records, such as a `datasets.Dataset`.
            options: how to train.
            val_data: what to measure on, of the same kind as `data`; none holds a share of `data`
                out for it.
            resume: continue the interrupted training of that name with its own options; of those
                given, only `batch_size`, `grad_accum` and `gradient_checkpointing` count, and a
                step must keep its rows.
            finish: end the interrupted training of that name at the step it has reached.
            restart: first discard an uncommitted training of that name.
            report: called after every step.
            stop: asked after every step; True saves and ends. By default Ctrl-C does, and a
                notebook's stop button, unless the program handles SIGINT itself.

        Raises:
            UsageError, DataError, BackboneError, TrainingError, TrainingInterrupted, Busy.
        """
        from niwfctl.repository.train import train

        given = sources_of(data), sources_of(val_data)
        return train(self, name, *given, options, resume, finish, restart, report, stop)

    def commit(
        self, names: Names, message: str, routing: RoutingOptions | None = None
    ) -> Committed:
        """Seals finished trainings into immutable objects and commits them.

        Args:
            names: of trainings; all finished ones if empty.
            message: of the git commit.
            routing: how they share coordinate space with existing capabilities.

        Raises:
            UsageError: the message is empty.
            NiwfError: no training is finished.
            UnknownName: nothing is trained under a name.
            Shadowed: earlier capabilities own too much of what it was trained on.
            GitError: git knows no identity.
            StorageError: the disk is full; nothing is committed.
        """
        from niwfctl.repository.commit import RoutingOptions, commit

        return commit(self, several(names), message, routing or RoutingOptions())

    def merge(
        self, revision: str, resolution: Resolution | None = None, message: str | None = None
    ) -> Merged:
        """Merges a branch: the union of both atlases, exact, without retraining.

        Args:
            revision: what to merge into HEAD.
            resolution: what to do with capabilities that both sides changed.
            message: of the merge commit.

        Raises:
            Conflict: both sides changed a capability, and nothing says which to take.
            UsageError: backbones or coordinate maps differ, or local changes would be lost.
        """
        from niwfctl.repository.merge import Resolution, merge

        return merge(self, revision, resolution or Resolution(), message)

    def rollback(
        self, name: str | None = None, to: str | None = None, dry_run: bool = False
    ) -> Rollback:
        """Brings back a capability, or the whole atlas, as it was: a new commit, bit for bit.

        Args:
            name: of the capability; None for the whole atlas.
            to: revision; by default the one before the capability became what it is.
            dry_run: only report what would change.

        Raises:
            UnknownName, UsageError: there is nothing to bring back.
        """
        from niwfctl.repository.rewrite import rollback

        return rollback(self, name, to, dry_run)

    def remove(self, names: Names, message: str | None = None) -> str:
        """Commits the removal of capabilities; history keeps them. Returns the commit's id."""
        from niwfctl.repository.rewrite import remove

        return remove(self, several(names), message)

    def discard(self, names: Names) -> None:
        """Discards uncommitted trainings, finished or not; `undo` brings them back.

        Raises:
            UnknownName: nothing is trained under a name.
            Busy: a training is in progress.
            StorageError: one could not be put aside for `undo`, and stays with those after it.
        """
        from niwfctl.repository.rewrite import discard

        discard(self, several(names))

    def rename(self, old: str, new: str, message: str | None = None) -> str | None:
        """Commits a new name of a capability; returns the commit's id, and None if it only
        renamed an uncommitted training, which `undo` takes back."""
        from niwfctl.repository.rewrite import rename

        return rename(self, old, new, message)

    def compose(
        self,
        sources: Names,
        name: str,
        recipe: Recipe | None = None,
        message: str | None = None,
    ) -> Composed:
        """Commits a capability made of others, without retraining.

        Args:
            sources: `NAME` or `NAME@REV` each.
            name: of the new capability, which routing never chooses.
            recipe: weights and method; by default the exact sum, each at weight 1.
            message: of the git commit.

        Raises:
            UnknownName: there is no such capability.
            UsageError: the name is taken, or the recipe does not fit.
        """
        from niwfctl.repository.compose import Recipe, compose

        return compose(self, several(sources), name, recipe or Recipe(), message)

    def load(self, capability: str | None = None, *, auto: bool = False) -> Model:
        """The backbone, with a capability active.

        Args:
            capability: `NAME` or `NAME@REV`; None for the bare backbone.
            auto: the owner of each prompt's coordinate answers instead (G3).

        Raises:
            UnknownName: there is no such capability.
            BackboneError: the backbone is missing, or is not the pinned one.
            ObjectError: an object is missing or corrupt.
        """
        from niwfctl.repository.model import Model

        model = Model(self)
        if auto:
            model.route()
        else:
            model.use(capability)
        return model

    def verify(self, names: Names = (), revision: str = "HEAD", deep: bool = False) -> Report:
        """Checks that committed capabilities are unchanged.

        Args:
            names: of capabilities; all of the revision by default.
            revision: whose capabilities to check.
            deep: also load the backbone and compare logits.

        Raises:
            UnknownName: there is no such revision or capability.
        """
        from niwfctl.repository.verify import verify

        return verify(self, several(names), revision, deep)

    def changes(self) -> list[str]:
        """Files of niwfctl in the work tree that differ from HEAD, as `git status --short`."""
        return self.git.changes(FILE, MANIFESTS, OBJECTS)

    def object_path(self, oid: str, size: int | None = None) -> Path:
        """Path of an object whose bytes match its name.

        A missing one is fetched if a remote has it; a corrupt one is first put aside.

        Raises:
            ObjectError: it is missing or corrupt.
        """
        return obtain(self, oid, size, self.store.get)

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Holds the lock under which commits are made; a thread may nest it.

        Yields:
            Whether it keeps others out: False on file systems without locks.

        Raises:
            Busy: another process or thread holds it for longer than a commit takes.
        """
        if hasattr(self._holding, "alone"):
            yield self._holding.alone
            return
        with lock(self.private / "commit.lock", "commit", COMMIT_PATIENCE) as self._holding.alone:
            try:
                yield self._holding.alone
            finally:
                del self._holding.alone
