"""Whose is a held-out prompt, no task given? Capabilities are added one after another.

    python benchmarks/routing.py TASK.jsonl… [--unseen OTHER.jsonl…] [--rows 1000]

The last 200 rows of each file are held out. Nothing is trained: a region's place depends on its
prompts alone. Prompts of unseen tasks should stay with the base.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import HELD_OUT, embedded, markdown, write_results

from niwfctl.backbone.batch import batched
from niwfctl.backbone.calibration import calibrate, default_tap_layer, pooled
from niwfctl.backbone.load import Backbone
from niwfctl.backbone.prompts import prompt_tokens
from niwfctl.field.cell import Cell
from niwfctl.field.coordinates import CoordinateMap
from niwfctl.field.routing import BASE, Claim, needed_bias, owners, takeover
from niwfctl.training.data import read_examples

LONGEST = 256  # tokens; longer prompts are left out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", type=Path)
    parser.add_argument("--unseen", nargs="*", type=Path, default=[])
    parser.add_argument("--rows", type=int, default=1000, help="of each task, to fit on")
    parser.add_argument("--max-takeover", type=float, default=0.02)
    arguments = parser.parse_args()
    backbone = embedded()
    tap = default_tap_layer(backbone)
    place, base, skip = calibrate(backbone, tap, 32, lambda done, total: None)
    read = {
        file: coordinates(backbone, place, tap, skip, file, arguments.rows)
        for file in (*arguments.tasks, *arguments.unseen)
    }
    claims: list[Claim] = []
    taken = []
    for file in arguments.tasks:
        z = read[file][:-HELD_OUT]
        held_out = torch.arange(len(z)) % 10 == 0
        cell = Cell.fit(z[~held_out], z[held_out])
        bias = needed_bias(cell, claims, arguments.max_takeover)
        claim = Claim(cell, bias, z[~held_out].double()[:512])
        taken.append(max((won / n for won, n in (takeover(claim, c) for c in claims)), default=0.0))
        claims.append(claim)
    names = [file.stem for file in arguments.tasks]
    results = []
    for file, z in read.items():
        owned = owners(z[-HELD_OUT:], base, claims)
        share = {"base": (owned == BASE).double().mean().item()}
        share |= {name: (owned == i).double().mean().item() for i, name in enumerate(names)}
        results.append({"task": file.stem, "trained": file in arguments.tasks, "owners": share})
    rows = [
        [one["task"] if one["trained"] else f"{one['task']} (unseen)"]
        + [f"{share:.1%}" for share in one["owners"].values()]
        for one in results
    ]
    details = ", ".join(
        f"{name} {claim.bias:.1f} ({share:.1%})"
        for name, claim, share in zip(names, claims, taken, strict=True)
    )
    table = markdown(["held-out prompts of", "base", *names], rows)
    table += f"\n\nBias in nats, and the largest takeover of an earlier one: {details}."
    write_results("routing", {"tap_layer": tap, "results": results}, table)


def coordinates(
    backbone: Backbone, place: CoordinateMap, tap: int, skip: int, file: Path, rows: int
) -> torch.Tensor:
    """z of the first rows of a file and of its held-out ones, float32 [rows, dim]."""
    examples = read_examples([str(file)])
    chosen = [*examples[: min(rows, len(examples) - HELD_OUT)], *examples[-HELD_OUT:]]
    tokens = [prompt_tokens(backbone.tokenizer, one.messages)[:LONGEST] for one in chosen]
    order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
    states = [
        pooled(backbone.model, tap, [tokens[index] for index in batch], skip)
        for batch in batched(order, 16)
    ]
    found = torch.empty(len(tokens), place.dim)
    found[order] = place(torch.cat(states))
    return found


if __name__ == "__main__":
    main()
