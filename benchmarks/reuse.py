"""What sealed bases of another capability save: perplexity against new bytes.

    python benchmarks/reuse.py DATA_DIR FOLDER [--steps 60]

`shell` is cut in two halves by tool, so that each half is related to the other; `code` is unrelated
to `shell`. Every line is one training of the second capability, with or without the first one's
bases.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from capabilities import arguments, held_out, repository_at, trained
from common import HELD_OUT, markdown, write_results

from niwfctl.repository import Repository
from niwfctl.training.run import TrainingOptions

WAYS: dict[str, dict[str, object]] = {
    "2 new bases of rank 8": {},
    "1 new basis of rank 8": {"bases": 1},
    "1 new basis of rank 4": {"bases": 1, "rank": 4, "alpha": 8.0},
    "1 new basis of rank 8, with FIRST": {"bases": 1, "reuse": ("FIRST",)},
    "1 new basis of rank 4, with FIRST": {"bases": 1, "rank": 4, "alpha": 8.0, "reuse": ("FIRST",)},
    "--reuse auto, 1 new basis of rank 4": {
        "bases": 1,
        "rank": 4,
        "alpha": 8.0,
        "reuse": ("auto",),
    },
}


def main() -> None:
    parser = arguments(__doc__)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    halves = halved(given.data / "shell.jsonl", given.folder)
    pairs = [
        ("shell-a", halves[0], "shell-b", halves[1]),
        ("shell-a", halves[0], "code", given.data / "code.jsonl"),
    ]
    results = []
    for first, first_file, second, file in pairs:
        repository = repository_at(given.folder / first)
        trained(repository, first, first_file, TrainingOptions(steps=given.steps))
        for way, options in WAYS.items():
            found = measured(repository, first, second, file, way, options, given)
            results.append(found)
            print(results[-1], flush=True)
    rows = []
    for one in results:
        full = next(r for r in results if r["pair"] == one["pair"])
        rows.append(
            [
                " → ".join(one["pair"]),
                one["way"].replace("FIRST", one["pair"][0]),
                ", ".join(one["reused"]) or "none",
                f"{one['bytes'] / 1e6:.2f}",
                f"{one['bytes'] / full['bytes']:.2f}",
                f"{one['perplexity']:.3f}",
                f"{one['perplexity'] / full['perplexity']:.3f}",
            ]
        )
    first = "over first"
    table = markdown(["pair", "trained", "gated", "new MB", first, "perplexity", first], rows)
    table += (
        f"\n\n{given.steps} steps of 8 rows, {given.rows} held-out rows of the second task; "
        f"`{first}` is over the first line of the pair. New bytes are the objects that the commit "
        "adds to the store."
    )
    write_results("reuse", {"results": results}, table)


def halved(file: Path, folder: Path) -> list[Path]:
    """Two files of `shell` rows, by the tool that they name; each ends with held-out rows."""
    rows = [json.loads(line) for line in file.read_text().splitlines() if line]
    tools = sorted({row["instruction"].split(":")[0] for row in rows})
    first = set(tools[::2])
    files = []
    for name, mine in (("shell-a", True), ("shell-b", False)):
        own = [row for row in rows if (row["instruction"].split(":")[0] in first) == mine]
        assert len(own) > 2 * HELD_OUT
        files.append(folder / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in own))
    return files


def measured(
    repository: Repository,
    first: str,
    second: str,
    file: Path,
    way: str,
    options: dict[str, object],
    given: argparse.Namespace,
) -> dict[str, object]:
    """One training of the second capability; committed under a name of its own."""
    name = f"{second}-{list(WAYS).index(way)}"
    names = tuple(first if one == "FIRST" else one for one in options.get("reuse", ()))
    if name not in repository.atlas():
        others = [other for other in repository.atlas() if other != first]
        for other in others:  # so that auto can only find the first
            repository.remove(other)
        chosen = TrainingOptions(**(options | {"steps": given.steps, "reuse": names}))
        trained(repository, name, file, chosen)
    (entry,) = repository.capability(name).regions
    old = {ref.oid for ref in repository.capability(first).objects}
    model = repository.load(name)
    return {
        "pair": [first, second],
        "way": way,
        "reused": sorted({one.of for one in entry.run.reused}),
        "bytes": sum(ref.size for ref in entry.objects if ref.oid not in old),
        "perplexity": model.score(held_out(repository, file, given.rows)).perplexity,
    }


if __name__ == "__main__":
    main()
