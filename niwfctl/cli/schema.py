"""What `--json` gives for each thing, documented in docs/json.md. No torch."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from niwfctl.errors import CODE_NAMES, Conflict, NiwfError

if TYPE_CHECKING:
    from niwfctl.atlas import Capability
    from niwfctl.repository.history import Commit
    from niwfctl.repository.measure import Measured
    from niwfctl.repository.merge import Merged
    from niwfctl.repository.operations import Operation
    from niwfctl.repository.verify import Check
    from niwfctl.training.run import Run

Json = dict[str, object]


def error_json(error: NiwfError) -> Json:
    """An error, in place of what the command gives."""
    code = error.exit_code
    found = {"code": code, "name": CODE_NAMES[code], "message": str(error)}
    return {"error": found | ({"names": error.names} if isinstance(error, Conflict) else {})}


def run_json(run: Run) -> Json:
    """A training run."""
    return {
        "name": run.name,
        "origin": run.origin,
        "finished": run.finished,
        "step": run.step,
        "steps": run.steps,
        "best_step": run.best_step,
        "loss": run.loss,
        "base_perplexity": run.base_perplexity,
        "perplexity": run.perplexity,
        "glances": [glance.model_dump() for glance in run.glances],
        "seconds": run.seconds,
        "tokens": run.tokens,
        "sources": run.sources,
        "data_hash": run.data_hash,
        "val_data": run.val_data.model_dump(mode="json") if run.val_data else None,
        "rows": run.rows,
        "held_out_rows": run.held_out_rows,
        "skipped_rows": run.skipped_rows,
        "empty_records": run.empty_records,
        "options": dict(run.options),
        "reused": [one.model_dump() for one in run.reused],
        "adapter": dict(run.adapter) if run.adapter else None,
    }


def capability_json(capability: Capability) -> Json:
    """A committed capability."""
    return {
        "name": capability.name,
        "bytes": capability.size,
        "parts": [
            {
                "of": part.of,
                "weight": part.weight,
                "regions": [entry.region.oid for entry in part.regions],
            }
            for part in capability.parts
        ],
        "regions": [
            {
                "id": entry.id,
                "region": entry.region.oid,
                "bases": [ref.oid for ref in entry.bases],
                "radius": entry.radius,
                "anchors": entry.anchors,
                "scale": entry.scale,
                "layers": list(entry.layers),
                "terms": entry.terms.model_dump(mode="json") if entry.terms else None,
                "routing": entry.routing.model_dump(mode="json") if entry.routing else None,
                "training": run_json(entry.run),
                "versions": entry.run.versions,
            }
            for entry in capability.regions
        ],
    }


def commit_json(commit: Commit) -> Json:
    """A commit of the history."""
    return {
        "commit": commit.id,
        "author": commit.author,
        "email": commit.email,
        "date": commit.date,
        "refs": list(commit.refs),
        "message": commit.message,
        "changes": [
            {
                "kind": change.kind,
                "name": change.name,
                "capability": change.capability and capability_json(change.capability),
            }
            for change in commit.changes
        ],
    }


def operation_json(operation: Operation) -> Json:
    """An entry of the operation log."""
    return {
        "id": operation.id,
        "time": operation.time,
        "command": operation.command,
        "branch": operation.branch,
        "before": operation.before,
        "after": operation.after,
        "trainings_removed": operation.removed,
        "trainings_added": operation.added,
    }


def merged_json(merged: Merged) -> Json:
    """The outcome of a merge."""
    lists = {kind: list(getattr(merged, kind)) for kind in ("added", "changed", "removed")}
    biases = {name: list(pair) for name, pair in merged.biases.items()}
    takeovers = [asdict(excess) for excess in merged.takeovers]
    return {
        "commit": merged.commit,
        "kind": merged.kind,
        **lists,
        "biases": biases,
        "takeovers": takeovers,
        "shadowed": merged.shadowed,
        "other_files": list(merged.other_files),
    }


def check_json(check: Check) -> Json:
    """One thing that was checked; JSON has no number for a limit that is infinite."""
    found = asdict(check) | {"state": check.state}
    for key in ("note", "hindered"):
        del found[key]
    infinite = {k: None for k, v in found.items() if isinstance(v, float) and not math.isfinite(v)}
    return found | infinite


def figures_json(figures: Measured) -> Json:
    """What was measured; the exact match only if it was asked for."""
    found: Json = {"perplexity": figures.perplexity, "tokens": figures.tokens}
    return found if figures.exact_match is None else found | {"exact_match": figures.exact_match}
