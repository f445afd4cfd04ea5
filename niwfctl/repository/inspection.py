"""What a repository tells: what is uncommitted, diff, map, matrix, check, fsck; and gc."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from niwfctl.several import Names, Sources, several

if TYPE_CHECKING:
    from niwfctl.records import Example
    from niwfctl.repository.diff import Changed, Compared
    from niwfctl.repository.map import Map
    from niwfctl.repository.matrix import Matrix
    from niwfctl.repository.measure import Tell
    from niwfctl.repository.repository import Repository
    from niwfctl.repository.upkeep import Checked, Collected
    from niwfctl.repository.verify import Check
    from niwfctl.training.run import Run


class Inspection:
    """What `Repository` tells about itself.

    Long work tells `report` its name, how many of its rows are done, and how many there are (0 if
    it has no rows).
    """

    def uncommitted(self: Repository) -> list[Run]:
        """Trainings that no capability of HEAD came from."""
        return [run for run in self.trainings.runs() if not self.committed(run)]

    def committed(self: Repository, run: Run) -> bool:
        """Whether a capability of HEAD came from a training."""
        regions = (entry for one in self.atlas().values() for entry in one.regions)
        return any(entry.run.id == run.id for entry in regions)

    def diff(self: Repository, a: str | None = None, b: str | None = None) -> list[Changed]:
        """What differs between two revisions, by capability.

        Args:
            a: a revision, or `A..B`, or `A...B` for B since it branched off A; HEAD's parent
                by default.
            b: a revision; HEAD by default.

        Raises:
            UnknownName: there is no such revision.
            UsageError: the histories of `A...B` have nothing in common.
        """
        from niwfctl.repository.diff import revisions, sides

        return revisions(*sides(self, a, b))

    def compare(self: Repository, a: str, b: str) -> Compared:
        """Where two capabilities lie, and what each does to the weights.

        Args:
            a, b: `NAME` or `NAME@REV`.

        Raises:
            UnknownName: there is no such capability or revision.
            ObjectError: an object is missing or corrupt.
            UsageError: one of them has several regions.
        """
        from niwfctl.repository.diff import capabilities

        return capabilities(self, self.capability(a), self.capability(b))

    def map(
        self: Repository,
        prompts: Names = (),
        data: Mapping[str, Sequence[Example]] | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Map:
        """The plane in which the regions of HEAD lie; loads the backbone only to place prompts.

        Args:
            prompts: to place on it, each by itself.
            data: examples whose prompts to place on it, by a name to show.
            progress: called with (prompts read, in all).

        Raises:
            DataError, BackboneError, ObjectError.
        """
        from niwfctl.repository.map import chart

        return chart(self, several(prompts), data, progress=progress)

    def matrix(
        self: Repository,
        sources: Mapping[str, Sources] | None = None,
        revisions: str = "HEAD",
        *,
        auto: bool = False,
        exact_match: bool = False,
        longest_answer: int = 256,
        batch_size: int = 8,
        again: bool = False,
        report: Tell = lambda what, done, rows: None,
    ) -> Matrix:
        """Measures every task at every commit of the first-parent history that changed the atlas.

        Args:
            sources: data by capability; a capability without any uses the data of its gate.
            revisions: the last commit, or `FIRST..LAST`.
            auto: the owner of each prompt answers, instead of the capability of the task's name.
            exact_match: also measure it.
            longest_answer: tokens to generate at most, for the exact match.
            batch_size: rows a forward pass.
            again: also measure what is remembered.
            report: told what is in progress.

        Raises:
            UnknownName, UsageError, DataError, BackboneError, ObjectError.
        """
        from niwfctl.repository.matrix import matrix
        from niwfctl.repository.measure import Bench

        return matrix(
            self,
            Bench(self, report, recall=not again),
            sources or {},
            revisions,
            auto=auto,
            exact_match=exact_match,
            longest_answer=longest_answer,
            batch_size=batch_size,
        )

    def check(
        self: Repository,
        against: str | None = None,
        report: Tell = lambda what, done, rows: None,
        strict: bool = False,
    ) -> list[Check]:
        """Verifies HEAD and measures the gates of its niwf.toml.

        Args:
            against: revision to compare with where a gate limits the regression; HEAD's parent by
                default. If one is given, it is also noted where HEAD's gates hold less.
            report: told what is in progress.
            strict: whether what is noted fails.

        Raises:
            DataError, UnknownName, UsageError, BackboneError, ObjectError.
        """
        from niwfctl.repository.check import check

        return check(self, against, report, strict)

    def fsck(self: Repository) -> Checked:
        """Checks every object of every reachable commit, and git's own."""
        from niwfctl.repository.upkeep import check_all

        return check_all(self)

    def gc(self: Repository, keep_days: float = 14.0, dry_run: bool = False) -> Collected:
        """Removes objects that no branch, tag, reflog entry, stash or work tree can reach.

        Args:
            keep_days: younger objects stay, and younger operations can still be undone.
            dry_run: only say what would go.

        Raises:
            Busy: a commit has been in progress for too long.
        """
        from niwfctl.repository.upkeep import collect

        return collect(self, keep_days, dry_run)
