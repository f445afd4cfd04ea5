"""The report of benchmarks/mistral7b.py: a line a cell, so that it can be made at any time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common import markdown
from mistral_cells import PARTS, Cell, Results, in_words, shown
from mistral_inference import BARE
from mistral_training import OURS

SHAPE = ("length", "batch", "checkpointing", "optimizer")
TRAINING = (
    "niwfctl trains 2 bases of rank 8 from the tap layer up, and computes logits at answer tokens "
    "only. PEFT is QLoRA of rank 16 on all layers, or on the same ones and with such a loss; all "
    "linears. Half of each row is the answer."
)
INFERENCE = (
    "Time over that of the bare backbone, for the prompts and for each token after. mixed: a batch "
    "of two capabilities. PEFT is a LoRA of rank 16 on all layers, unmerged."
)


def table(results: Results) -> str:
    """The report, for people."""
    origin = results.origin
    where = f"Mistral-7B's shapes, {origin['weights']} weights, on {origin['gpu']}."
    others = ("cuda", "bitsandbytes", "cublas_workspace", "code")
    versions = ", ".join(f"{key} {origin[key]}" for key in others if origin[key])
    parts = {"guarantees": guarantees, "training": training, "inference": inference}
    lines = [f"{where} {versions}."]
    if results.partial:
        left = ", ".join(part for part in PARTS if part not in results.finished)
        lines.insert(0, f"**Partial: not measured to the end are {left}.**")
    return "\n\n".join(
        [*lines, *(line for part in PARTS for line in parts[part](results.cells[part]))]
    )


def guarantees(cells: Sequence[Cell]) -> Iterator[str]:
    """A line a step."""
    if cells:
        yield steps(cells)


def training(cells: Sequence[Cell]) -> Iterator[str]:
    """Sides of a setting one below the other."""
    rows = [cell for cell in cells if "side" in cell]
    speeds = {key(cell): cell.get("tokens_per_second") for cell in rows if cell["side"] == OURS}
    lines = [
        [
            *(shown(cell[name]) for name in (*SHAPE, "side")),
            failure(cell) or shown(cell["tokens_per_second"]),
            over(speeds.get(key(cell)), cell.get("tokens_per_second")),
            shown(cell.get("peak_gib")),
        ]
        for cell in sorted(rows, key=key)
    ]
    if lines:
        yield TRAINING
        yield markdown([*SHAPE, "side", "tokens/s", "niwfctl's over it", "peak, GiB"], lines)
    yield from guarantees([cell for cell in cells if "side" not in cell])


def key(cell: Cell) -> tuple:
    """The setting that sides share."""
    return tuple(cell[name] for name in SHAPE)


def inference(cells: Sequence[Cell]) -> Iterator[str]:
    """Sides of a batch one below the other."""
    rows = [cell for cell in cells if "side" in cell]
    bare = {cell["batch"]: cell for cell in rows if cell["side"] == BARE}
    stages = ("prefill_ms", "token_ms")
    lines = [
        [
            cell["batch"],
            failure(cell) or cell["side"],
            *(shown(cell.get(stage)) for stage in stages),
            *(over(cell.get(stage), bare.get(cell["batch"], {}).get(stage)) for stage in stages),
        ]
        for cell in sorted(rows, key=lambda cell: cell["batch"])
    ]
    if lines:
        yield INFERENCE
        yield markdown(["batch", "side", "prefill, ms", "token, ms", "prefill", "token"], lines)
    yield from guarantees([cell for cell in cells if "side" not in cell])


def steps(cells: Sequence[Cell]) -> str:
    """Steps with their seconds and all that was found."""
    rows = []
    for cell in cells:
        found = {key: value for key, value in cell.items() if key not in ("step", "seconds")}
        rows.append([cell["step"], f"{cell['seconds']:.3g}", in_words(found)])
    return markdown(["step", "seconds", "found"], rows)


def failure(cell: Cell) -> str:
    """Why a cell has no figures; empty if it has."""
    return str(cell.get("error", ""))


def over(one: float | None, other: float | None) -> str:
    """A ratio, where both were measured."""
    return f"{one / other:.3f}" if one and other else ""
