"""verify, doctor: is everything what it should be?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from niwfctl.cli.main import app
from niwfctl.cli.make import AsJson
from niwfctl.cli.output import emit_json, err, out


@app.command()
def verify(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="All by default.")
    ] = None,
    revision: Annotated[str, typer.Option("--rev", help="Where to look.")] = "HEAD",
    deep: Annotated[
        bool, typer.Option("--deep", help="Also load the backbone and compare logits.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Prove that committed capabilities are what they were: bytes, field and logits."""
    from niwfctl.repository import Repository

    with err.status("verifying"):
        report = Repository.open(ctx.obj).verify(names or [], revision, deep)
    if as_json:
        checks = [asdict(check) for check in report.checks]
        emit_json({"ok": report.ok, "revision": report.revision, "checks": checks})
    else:
        for check in report.checks:
            mark = "[green]ok[/]    " if check.ok else "[red]FAILED[/]"
            out.print(f"{mark} {check.subject:<16} {check.check:<9} ", end="")
            out.print(check.detail, markup=False)
        failed = sum(not check.ok for check in report.checks)
        out.print(f"{failed} of {len(report.checks)} checks failed" if failed else "all hold")
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def doctor(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Look at this machine: what is there, what is missing, how to get it."""
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
