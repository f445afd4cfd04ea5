"""verify, check, fsck, gc, doctor: is everything as it should be?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from niwfstore import output_file

from niwfctl.cli.junit import junit as as_junit
from niwfctl.cli.junit import junit_error
from niwfctl.cli.options import AsJson
from niwfctl.cli.output import emit_json, err, one_line, out, require_file, size
from niwfctl.cli.progress import measuring_progress
from niwfctl.cli.schema import check_json
from niwfctl.errors import NiwfError, reason
from niwfctl.storage import storing

if TYPE_CHECKING:
    from niwfctl.repository.verify import Check

app = typer.Typer()

_MARKS = {
    "ok": "[green]ok[/]    ",
    "note": "[yellow]note[/]  ",
    "failed": "[red]FAILED[/]",
    "not run": "[red]not run[/]",
}


@app.command()
def verify(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="All by default.")
    ] = None,
    revision: Annotated[str, typer.Option("--rev", help="What to verify.")] = "HEAD",
    deep: Annotated[
        bool, typer.Option("--deep", help="Also load the backbone and compare logits.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prove that committed capabilities are unchanged: bytes, field and logits."""
    from niwfctl.repository import Repository

    with err.status("verifying"):
        report = Repository.open(ctx.obj).verify(names or [], revision, deep)
    if as_json:
        checks = [check_json(check) for check in report.checks]
        emit_json(
            {
                "ok": report.ok,
                "revision": report.revision,
                "signature": asdict(report.signature),
                "checks": checks,
            }
        )
    else:
        _show_checks(report.checks)
    raise typer.Exit(_code(report.checks))


@app.command()
def check(
    ctx: typer.Context,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="REV",
            help="For regressions, HEAD's parent by default; also tells which of its limits HEAD "
            "has removed or loosened.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail on a limit removed, loosened or left out.")
    ] = False,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write JUnit XML as well.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify HEAD and measure the gates of niwf.toml, for pipelines."""
    from niwfctl.repository import Repository
    from niwfctl.repository.check import compared_with

    if junit:
        require_file(ctx.obj / junit, "--junit", suffixes=())
        junit = ctx.obj / junit
    with _errors_in(junit):
        repository = Repository.open(ctx.obj)
        commits = {
            "commit": repository.git.resolve("HEAD"),
            "against": compared_with(repository, against),
        }
        with measuring_progress() as report:
            checks = repository.check(against, report, strict)
    ok = all(check.ok for check in checks)
    if junit:
        with output_file(junit) as file:
            file.write(as_junit(checks))
    if as_json:
        emit_json({"ok": ok, **commits, "checks": [check_json(check) for check in checks]})
    else:
        _show_checks(checks)
        if not repository.config.gates:
            out.print("niwf.toml sets no gates")
    raise typer.Exit(_code(checks))


@app.command()
def fsck(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check every object of every reachable commit, and git's own."""
    from niwfctl.repository import Repository

    with err.status("checking"):
        found = Repository.open(ctx.obj).fsck()
    if as_json:
        elsewhere = [{"oid": oid, "remote": remote} for oid, remote in found.elsewhere]
        damage = [asdict(one) for one in found.damage]
        emit_json({"objects": found.objects, "damage": damage, "elsewhere": elsewhere})
    else:
        for one in found.damage:
            out.print(f"{one.subject}: {one.problem}", style="red", markup=False)
        for remote, count in Counter(remote for _, remote in found.elsewhere).items():
            get = f"get them with `niwfctl fetch {remote} --all`"
            out.print(f"{count} objects are not here, and {remote} has them: {get}", markup=False)
        out.print(f"{found.objects} objects checked, {len(found.damage)} problems")
    raise typer.Exit(1 if found.damage else 0)


@app.command()
def gc(
    ctx: typer.Context,
    keep: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=36500.0,
            metavar="DAYS",
            help="Keep objects, and operations to undo, that are younger.",
        ),
    ] = 14.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be removed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove objects that no branch, tag, reflog entry, stash or work tree can reach."""
    from niwfctl.repository import Repository

    done = Repository.open(ctx.obj).gc(keep, dry_run)
    if as_json:
        objects = [{"oid": oid, "bytes": count} for oid, count in done.objects]
        emit_json(
            {
                "dry_run": dry_run,
                "bytes": done.size,
                "objects": objects,
                "operations": done.operations,
            }
        )
    else:
        verb = "would remove" if dry_run else "removed"
        out.print(f"{verb} {len(done.objects)} objects, {size(done.size)}")
        if done.operations:
            verb = "could" if dry_run else "can"
            out.print(f"{done.operations} operations {verb} no longer be undone")


@app.command()
def doctor(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check this machine: what is there, what is missing, how to get it."""
    from niwfctl.doctor import examine

    findings = examine(ctx.obj)
    if as_json:
        emit_json([asdict(finding) for finding in findings])
    else:
        marks = {
            "ok": "[green]ok[/]     ",
            "note": "[yellow]note[/]   ",
            "missing": "[red]missing[/]",
        }
        for finding in findings:
            out.print(f"{marks[finding.state]} {finding.name:<14} ", end="")
            out.print(finding.detail, markup=False)
    raise typer.Exit(1 if any(finding.state == "missing" for finding in findings) else 0)


@contextmanager
def _errors_in(junit: Path | None) -> Iterator[None]:
    """A block whose error is written into a JUnit file, if one is given."""
    try:
        with storing():
            yield
    except Exception as error:
        if junit:
            with suppress(OSError), output_file(junit) as file:
                words = str(error) if isinstance(error, NiwfError) else reason(error)
                file.write(junit_error(words))
        raise


def _show_checks(checks: Sequence[Check]) -> None:
    for check in checks:
        subject = one_line(check.subject)  # a gate may have any name
        out.print(f"{_MARKS[check.state]} {subject:<16} {check.check:<11} ", end="")
        out.print(one_line(check.detail), markup=False)
    counts = Counter(check.state for check in checks)
    of = f"of {len(checks)} checks"
    verdict = [f"{counts['failed']} {of} failed"] if counts["failed"] else []
    verdict += [f"{counts['not run']} {of} could not be run"] if counts["not run"] else []
    verdict = verdict or ["all hold"]
    verdict += [f"{counts['note']} note{'s' * (counts['note'] > 1)}"] if counts["note"] else []
    out.print(", ".join(verdict))


def _code(checks: Sequence[Check]) -> int:
    """1 if a check failed, else the code of what kept one from being run, which is told."""
    if all(check.ok for check in checks):
        return 0
    if any(check.state == "failed" for check in checks):
        return 1
    first = next(check for check in checks if check.state == "not run")
    err.print(f"niwfctl: {first.subject} could not be checked: {first.detail}", markup=False)
    return first.hindered
