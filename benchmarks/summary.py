"""Writes README's table of figures from docs/results/*.json: none is typed by hand.

    python benchmarks/summary.py [--check]

With `--check` nothing is written, and the exit code says whether README is up to date.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
Results = dict[str, object]


@dataclass(frozen=True)
class Figure:
    """A line of the table.

    Attributes:
        source: name of the results, and of the script that makes them.
        what: what is measured, over what.
        read: gets the figure from the results; None if they were made before it was measured.
        goal: the goal, in words.
    """

    source: str
    what: str
    read: Callable[[Results], str | None]
    goal: str


def quality(results: Results) -> str:
    ratios: dict[str, list[float]] = {}
    for one in results["results"]:
        ratios.setdefault(one["task"], []).append(one["niwfctl"] / one["peft"])
    return ", ".join(f"{task} {statistics.mean(found):.3f}" for task, found in ratios.items())


def least_retention(results: Results) -> str:
    pairs = [one for one in results["results"] if len(one["parts"]) == 2]

    def best(side: str, method: str | None = None) -> str:
        chosen: dict[tuple[str, ...], float] = {}
        for one in pairs:
            if one["side"] == side and method in (None, one["method"]):
                parts = tuple(one["parts"])
                chosen[parts] = max(chosen.get(parts, 0.0), min(one["retentions"]))
        return f"{min(chosen.values()):.3f}"

    ours = ", ".join(f"{one} {best('niwfctl', one)}" for one in ("linear", "svd", "routed"))
    return f"{ours}, PEFT's best method {best('PEFT')}"


def related(results: Results) -> str:
    """Figures of the first pair, whose tasks are related."""
    first = results["results"][0]
    auto = next(o for o in results["results"] if o["way"].startswith("--reuse auto"))
    return f"{auto['bytes'] / first['bytes']:.2f}, {auto['perplexity'] / first['perplexity']:.3f}"


def transfer(results: Results) -> str:
    ways: dict[str, list[Results]] = {}
    for one in results["results"]:
        ways.setdefault(one["way"], []).append(one)

    def mean(way: str, what: str) -> float:
        return statistics.mean(one[what] for one in ways[way])

    figures = ", ".join(f"{mean(way, 'told'):.3f} ({mean(way, 'auto'):.3f})" for way in ways)
    first, last = (mean(way, "bytes") for way in ways)
    return f"{figures}; {last / first:.2f}"


STREAM = {
    "niwfctl": "niwfctl",
    "per-task": "a LoRA a task",
    "any-ssr": "Any-SSR",
    "ewc": "EWC on LoRA",
    "replay": "replay of 5%",
    "o-lora": "O-LoRA",
    "penalty": "the paper's lock",
    "lora": "one LoRA",
}


GIVEN, OPEN = "task given", "no task given"
EARLIER_RATE = "0.003"  # of every backbone, when records did not say it


def stream(results: Results, way: str) -> dict[str, list[Results]]:
    """Lines by method title, one per seed, for methods that ran the whole stream."""
    lines = [one for one in results["lines"] if one["way"] == way]
    found = {title: [one for one in lines if one["method"] == key] for key, title in STREAM.items()}
    return {title: lines for title, lines in found.items() if lines}


def average_perplexity(results: Results) -> str:
    """Averages of five tasks are in nats a token, negated."""
    return averages(results, lambda average: math.exp(-average), ".2f")


def average_accuracy(results: Results) -> str:
    """Averages of classes are accuracies."""
    return averages(results, lambda average: average, ".3f")


def averages(results: Results, score: Callable[[float], float], form: str) -> str:
    """The mean over each method's seeds, with their number if there are several, and the rate."""
    lines = stream(results, OPEN)
    fewest = min(map(len, lines.values()), default=0)
    rates = {f"{record['lr']:g}" for record in results["records"] if "lr" in record}
    found = ", ".join(
        f"{title} {statistics.mean(score(one['average']) for one in own):{form}}"
        + (f" ({len(own)} seeds)" if len(own) > fewest else "")
        for title, own in lines.items()
    )
    return f"{found}; at a learning rate of {', '.join(rates) or EARLIER_RATE}"


def kept_bits(results: Results) -> str:
    told, rest = (stream(results, way).items() for way in (GIVEN, OPEN))
    first, second = (
        ", ".join(f"{title} {kept(lines)}" for title, lines in group) for group in (told, rest)
    )
    return f"told the task: {first}; not told: {second}"


def kept(lines: list[Results]) -> str:
    """`K of N` tasks, over all seeds."""
    counts = [map(int, one["unchanged"].split(" of ")) for one in lines]
    return " of ".join(str(sum(column)) for column in zip(*counts, strict=True))


def same_work(ratios: dict[str, float], in_bf16: str) -> str | None:
    """Ratios of PEFT on niwfctl's layers, with its factors in float32 and in bf16."""
    if "peft_same" not in ratios:
        return None
    return f"{ratios['peft_same']:.2f} ({ratios[in_bf16]:.2f})"


FIGURES = (
    Figure(
        "quality",
        "held-out perplexity over plain PEFT LoRA's, same steps, data, order, parameters",
        quality,
        "≤ 1.01",
    ),
    Figure(
        "speed",
        "training, tokens/s over PEFT's (and over PEFT's under autocast)",
        lambda r: "{peft:.2f} ({peft_autocast:.2f})".format(**r["training"]["ratio"]),
        "≥ 1.2",
    ),
    Figure(
        "speed",
        "the same where PEFT has niwfctl's layers, and its loss logits at answer tokens only",
        lambda r: same_work(r["training"]["ratio"], "peft_same_autocast"),
        "",
    ),
    Figure(
        "memory",
        "peak memory of training over PEFT's (and over PEFT's under autocast)",
        lambda r: "{peft:.2f} ({peft_autocast:.2f})".format(**r["ratio"]),
        "≤ 1",
    ),
    Figure(
        "memory",
        "the same where PEFT has niwfctl's layers, and its loss logits at answer tokens only",
        lambda r: same_work(r["ratio"], "peft_same_autocast"),
        "",
    ),
    Figure(
        "speed",
        "decoding over the bare backbone (PEFT, unmerged; with its factors in bf16)",
        lambda r: "{niwfctl:.2f} ({peft:.2f}; {peft_bf16:.2f})".format(**r["decoding"]["ratio"]),
        "≤ 1.15",
    ),
    Figure(
        "speed",
        "the same for PEFT on niwfctl's layers (with its factors in bf16)",
        lambda r: same_work(r["decoding"]["ratio"], "peft_same_bf16"),
        "",
    ),
    Figure(
        "speed",
        "switching a resident capability",
        lambda r: f"{r['switching']['seconds'] * 1e6:.1f} µs",
        "≤ 1 ms",
    ),
    Figure(
        "commands",
        "`log`, `status`, `show` over `import typer, rich, git`",
        lambda r: f"{max(r['ratio'].values()):.2f} at most",
        "≤ 3",
    ),
    Figure(
        "routing",
        "held-out prompts of six tasks that find their owner, added one by one",
        lambda r: f"{statistics.mean(r['compared']['what was kept']['first']):.1%}",
        "≥ 97%",
    ),
    Figure(
        "routing",
        "prompts of tasks never trained that stay with the base",
        lambda r: ", ".join(
            f"{task} {share:.0%}"
            for task, share in r["compared"]["what was kept"]["unseen"].items()
        ),
        "≥ 95%",
    ),
    Figure(
        "auto",
        "perplexity under `--auto` over that with the right capability given",
        lambda r: f"{max(o['auto'] / o['given'] for o in r['results']):.3f} at most",
        "≤ 1.01",
    ),
    Figure(
        "auto",
        "time to the first token, and of each further one, `--auto` over given",
        lambda r: (
            f"{statistics.median(o['first_token'] for o in r['results']):.3f}, "
            f"{statistics.median(o['token'] for o in r['results']):.3f}"
        ),
        "≤ 1.03",
    ),
    Figure(
        "continual-five-40",
        "five tasks learned one after another, no task given: average perplexity in the end",
        average_perplexity,
        "",
    ),
    Figure(
        "continual-five-40",
        "the same: earlier tasks of which every held-out row's loss has kept its bits",
        kept_bits,
        "all, told the task",
    ),
    Figure(
        "continual-classes-40",
        "five classifications one after another, no task given: average accuracy in the end",
        average_accuracy,
        "",
    ),
    Figure(
        "transfer",
        "five classifications by `train` alone and with `--reuse auto`: accuracy by name "
        "(with `--auto`); bytes",
        transfer,
        "",
    ),
    Figure(
        "reuse",
        "`--reuse auto --rank 4` beside a related one over training alone: bytes, perplexity",
        related,
        "≤ 0.5, ≤ 1.01",
    ),
    Figure(
        "composition",
        "least retention of a part in a pair, worst pair",
        least_retention,
        "≥ 0.98",
    ),
    Figure(
        "composition",
        "relative error in ΔW of a linear sum; compression of a sum to rank 16",
        lambda r: f"{r['linear_error']:.0e}; {r['compression_seconds']:.2f} s",
        "≤ 1e-6; ≤ 0.5 s",
    ),
    *(
        Figure("history", what, lambda r, key=key: f"{r[key]['ratio']:.2f}", goal)
        for key, what, goal in (
            (
                "commit",
                "commit over `sha256sum` and `cp` of the same bytes, at 7B's shapes",
                "≤ 1.5",
            ),
            ("checkout", "checkout, ready to use, over reading the bytes", "≤ 1.2"),
            ("diff", "diff of two capabilities over one read of both", "< 1"),
            ("log", "log of 1,000 commits over `git log`", "≤ 3"),
        )
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    new = f"{before}{BEGIN}\n" + "\n".join(table()) + f"\n{END}{after}"
    if check:
        sys.exit(0 if new == text else "README.md is not up to date: run benchmarks/summary.py")
    readme.write_text(new, "utf-8")


def table() -> Iterator[str]:
    """Lines of Markdown, leaving out what has no results yet."""
    yield "| what | measured | goal | made by |"
    yield "|---|---|---|---|"
    dates: dict[str, set[str]] = {}
    for figure in FIGURES:
        file = ROOT / "docs" / "results" / f"{figure.source}.json"
        if file.exists():
            results = json.loads(file.read_text("utf-8"))
            if (found := figure.read(results)) is None:
                continue
            where = results["machine"]
            machine = "{processor}, {cores} cores, {memory_gib} GiB".format(**where)
            dates.setdefault(machine, set()).add(where["date"])
            source = f"[{figure.source}](docs/results/{figure.source}.md)"
            yield f"| {figure.what} | {found} | {figure.goal} | {source} |"
    yield ""
    seen = "; ".join(f"{machine}, {min(days)} to {max(days)}" for machine, days in dates.items())
    yield f"SmolLM2-135M-Instruct in bf16 where a model is needed. Machine and dates: {seen}."


if __name__ == "__main__":
    main()
