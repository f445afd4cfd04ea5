"""How things look on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from niwfctl.atlas import Atlas, Capability, RegionEntry, Takeover, owner_names
from niwfctl.cli.output import SIGNS, number, out, put, size
from niwfctl.config import FILE
from niwfctl.layout import ATTRIBUTES_FILE, LFS_CONFIG
from niwfctl.training.run import GLANCE_ROWS

if TYPE_CHECKING:
    from niwfctl.git.signature import Signature
    from niwfctl.repository.history import Change, Commit
    from niwfctl.repository.merge import Merged
    from niwfctl.training.run import ImportedAdapter, Run, ValidationData

COMPOSED = "composed"  # origin of a run that trained nothing
_FILES = 8  # that a line lists
_COLOURS = {"added": "green", "changed": "yellow", "removed": "red"}


def run_line(run: Run) -> str:
    """One line about an uncommitted training."""
    if run.finished:
        return (
            f"{run.name}: trained, {run.steps} steps, held-out perplexity "
            f"{number(run.base_perplexity)} → {number(run.perplexity)}"
        )
    return f"{run.name}: stopped at step {run.step} of {run.steps}, loss {number(run.loss)}"


def perplexity_line(run: Run) -> str:
    """A run's result on the held-out rows."""
    if run.finished and run.perplexity is None:
        return "not measured" + (", since only prompts were given" if run.adapter else "")
    return f"{number(run.base_perplexity)} (base) → {number(run.perplexity)}"


def show_capability(capability: Capability, owner: Mapping[str, str], indent: str = "") -> None:
    """A capability with everything its manifest says about it.

    Args:
        owner: names of capabilities by the ids of their regions.
    """
    title = Text(indent).append(f"capability {capability.name}", "bold")
    put(title.append(f"  {size(capability.size)}"))
    for part in capability.parts:
        regions = ", ".join(entry.id for entry in part.regions)
        out.print(f"{indent}  {part.weight:+g} × {part.of}, region {regions}", markup=False)
    if (count := len(capability.regions)) > 1:
        out.print(f"{indent}  of its {count} regions, the owner of a prompt answers it")
    for entry in capability.regions:
        for label, text in _region_lines(entry, capability.name, owner).items():
            out.print(f"{indent}  {label:<11}{text}", markup=False)


def _region_lines(entry: RegionEntry, name: str, owner: Mapping[str, str]) -> dict[str, str]:
    run, options = entry.run, entry.run.options
    whose = "" if run.name == name else f", of {run.name}"
    lines = {
        "region": f"{entry.id}{whose}, radius {entry.radius:.2f}, {entry.anchors} anchors",
        "bases": f"{len(entry.bases)} of rank {options.rank}, scale {entry.scale:g}, layers "
        f"{entry.layers[0]} to {entry.layers[-1]}",
    }
    if run.origin == COMPOSED:
        lines |= {"composed": f"approximates {', '.join(run.sources)}"}
    else:
        lines |= {
            "data": _data_line(run),
            "rows": f"{run.rows} to learn from, {run.held_out_rows} held out, "
            f"{run.skipped_rows} left out"
            + (f", {run.empty_records} records had an empty answer" if run.empty_records else ""),
            "training": _training_line(run),
            "perplexity": perplexity_line(run),
        }
    if run.val_data:
        lines |= {"measured": f"on {_data_line(run.val_data)}"}
    if run.glances:
        lines |= {"held-out": _curve(run)}
    return lines | {
        "routing": _routing_line(entry, owner),
        "made with": ", ".join(f"{name} {which}" for name, which in run.versions.items()),
    }


def _data_line(data: Run | ValidationData) -> str:
    return f"{', '.join(data.sources)} ({data.data_hash[:19]})"


def _curve(run: Run) -> str:
    """How the perplexity went on, from that of the base."""
    curve = " → ".join(number(glance.validation) for glance in run.glances)
    steps = ", ".join(str(glance.step) for glance in run.glances)
    return f"{curve} (step {steps}; on {min(run.held_out_rows, GLANCE_ROWS)} rows)"


def step_kept(run: Run) -> str:
    """Which step's parameters a training kept, if it was asked to keep the best; else nothing."""
    return f", step {run.best_step} kept" if run.best_step else ""


def dropped_line(adapter: ImportedAdapter) -> str:
    """What was left out of a LoRA that also changed layers below the tap layer."""
    layers = ", ".join(map(str, adapter.dropped))
    return f"left out: layers {layers}, {adapter.lost:.0%} of its change by norm"


def _training_line(run: Run) -> str:
    if run.adapter:
        made_for = f", made for {run.adapter.base_model}" if run.adapter.base_model else ""
        return (
            f"imported from a LoRA ({run.adapter.digest[:19]}){made_for}; rounding to bf16 changed "
            f"its weights by {run.adapter.rounding:.2%}"
            + (f"; {dropped_line(run.adapter)}" if run.adapter.dropped else "")
        )
    options = run.options
    return (
        f"{run.steps} steps of {options.rows_a_step} rows{step_kept(run)}, lr {options.lr:g}, "
        f"seed {options.seed}, {run.seconds:.0f} s"
    )


def _routing_line(entry: RegionEntry, owner: Mapping[str, str]) -> str:
    """How a region shares coordinate space with the others."""
    routing = entry.routing
    if routing is None:
        return "never routed to by --auto"
    parts = [f"bias {routing.bias:.1f}, margin over the base {routing.margin:.1f}"]
    if entry.terms and entry.terms.general:
        parts = [f"bias {routing.bias:.1f}, general: it answers for the base"]
    if routing.base:
        parts.append(f"wins {_taken(routing.base)} of the base's prompts")
    worst = max(routing.takeover, key=lambda one: one.won / one.anchors, default=None)
    if worst:
        parts.append(f"takes over at most {_taken(worst)} of an earlier region")
    disputed = sum(len(one.disputed) for one in routing.takeover)
    if disputed:
        parts.append(
            f"leaves the neighbourhoods of {disputed} disputed anchor{'s' * (disputed > 1)} to "
            f"their owners, with {routing.ceded:.1%} of its own prompts"
        )
    parts += [
        f"{'the base' if one == 'base' else owner.get(one, one)} owns {share:.1%} of its prompts"
        for one, share in routing.shadow.items()
    ]
    return ", ".join(parts)


def _taken(takeover: Takeover) -> str:
    return f"{takeover.won / takeover.anchors:.1%} (95% bound {takeover.bound:.1%})"


def show_committed(
    branch: str | None,
    commit: str,
    message: str,
    capabilities: Iterable[Capability],
    atlas: Atlas,
) -> None:
    """What a commit made of trainings, or of an adapter.

    Args:
        atlas: the atlas of the commit.
    """
    owner = owner_names(atlas)
    where = branch or "detached HEAD"
    out.print(f"[{where} {commit[:7]}] {message.splitlines()[0]}", markup=False)
    for capability in capabilities:
        entry = capability.regions[-1]  # the new one; an extension keeps earlier ones
        out.print(
            f"  {capability.name}: region {entry.id}, radius {entry.radius:.2f}, {entry.anchors} "
            f"anchors, {len(entry.bases)} bases, {size(sum(ref.size for ref in entry.objects))}",
            markup=False,
        )
        out.print(f"  routing: {_routing_line(entry, owner)}", markup=False)


def show_commit(commit: Commit, signature: Signature | None = None) -> None:
    """A commit as `git log` shows it, with what it did to capabilities."""
    text = Text().append(f"commit {commit.id}{_refs(commit)}\n", "yellow")
    lines = [f"Author: {commit.author} <{commit.email}>", f"Date:   {commit.date}"]
    lines += [f"Signed: {signature}"] if signature else []
    lines += ["", *(f"    {line}" for line in commit.message.splitlines()), ""]
    text.append("\n".join(lines))
    for change in commit.changes:
        text.append("\n    ").append(*_sign(change)).append(f" {_change(change)}")
    if commit.changes:
        text.append("\n")
    put(text)


def show_commit_line(commit: Commit | None, drawn: str = "") -> None:
    """A commit in one line, with what it did; `drawn` is git's graph before it, or between two."""
    text = Text(drawn)
    if commit:
        text.append(f"{commit.id[:7]}{_refs(commit)} ", "yellow")
        text.append(commit.subject)
        for change in commit.changes:
            text.append(" ").append(*_sign(change)).append(f" {change.name}")
    put(text)


def _refs(commit: Commit) -> str:
    return f" ({', '.join(commit.refs)})" if commit.refs else ""


def _sign(change: Change) -> tuple[str, str]:
    return SIGNS[change.kind], _COLOURS[change.kind]


def _change(change: Change) -> str:
    capability = change.capability
    if capability is None:
        return f"{change.name}  cannot be read in this commit"
    if capability.parts:
        parts = " ".join(f"{part.weight:+g}·{part.of}" for part in capability.parts)
        return f"{capability.name}  composed of {parts}"
    *earlier, entry = capability.regions
    run = entry.run
    where = f"region {entry.id}"
    if earlier:
        where = f"{len(earlier) + 1} regions, {size(capability.size)}, the last {entry.id}"
    if run.name != capability.name:
        where += f" of {run.name}"
    own = size(sum(ref.size for ref in entry.objects))
    made = f"{len(entry.bases)} bases of rank {run.options.rank}, {own}"
    if run.origin == COMPOSED:
        return f"{capability.name}  {where}, {made}, approximates {', '.join(run.sources)}"
    return (
        f"{capability.name}  {where}, {made}, data {run.data_hash[:14]}, perplexity "
        f"{number(run.base_perplexity)} → {number(run.perplexity)}"
    )


def show_merged(merged: Merged) -> None:
    """The outcome of a merge."""
    out.print(f"{merged.kind}: {merged.commit[:12]}")
    for kind in ("added", "changed", "removed"):
        for name in getattr(merged, kind):
            out.print(f"  {kind:<8} {name}", markup=False)
    for excess in merged.takeovers:
        out.print(f"  takeover {excess}", markup=False)
    for name, (before, after) in merged.biases.items():
        out.print(f"  routing  {name}: bias {before:.4g} → {after:.4g}", markup=False)
    if merged.other_files:
        out.print(f"  also changed: {_few(merged.other_files)}", markup=False)


def _few(paths: Sequence[str]) -> str:
    """Files, first those that git, git-lfs, niwfctl and pipelines obey; many of them cut short."""
    obeyed = (LFS_CONFIG, FILE, ATTRIBUTES_FILE)
    order = sorted(paths, key=lambda path: (path not in obeyed, not path.startswith("."), path))
    shown = [path if path.isprintable() else ascii(path) for path in order[:_FILES]]
    more = f" and {len(order) - _FILES} more" if len(order) > _FILES else ""
    return ", ".join(shown) + more
