"""Tables of continual learning, from the records that benchmarks/continual.py keeps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from common import markdown
from rivals.protocol import GIVEN, OPEN
from rivals.registry import METHODS, TITLES
from rivals.results import Origin, only
from rivals.streams import CLASSES

from niwfctl.config import RoutingConfig
from niwfctl.continual import Transfer, transfer

Record = dict
BASE = "base"
EARLIER_RATE = 3e-3  # of every backbone, when records did not say it


@dataclass(frozen=True)
class Line:
    """One method, asked in one way, on one sequence with one seed: the records of its commits."""

    method: str
    way: str
    seed: int
    records: list[Record]

    @property
    def title(self) -> str:
        """Its name in tables."""
        several = sum(bool(record["cost"]) and len(record["cost"]) > 1 for record in self.records)
        return TITLES[self.method] + (f", {self.way}" if several else "")

    @property
    def tasks(self) -> list[str]:
        """Names, in the order of the stream."""
        return [record["task"] for record in self.records]

    @property
    def whole(self) -> bool:
        """Whether every commit was measured."""
        return all(record["scores"] for record in self.records)

    def figure(self, row: int, task: str, name: str) -> float:
        """A figure for a task after a commit."""
        return self.records[row]["scores"][self.way][task][name]

    def unchanged(self) -> str:
        """Whether every earlier task is answered with equal bits at the end."""
        if not self.whole:
            return "–"
        pairs = [
            (self.figure(row, task, "digest"), self.figure(-1, task, "digest"))
            for row, task in enumerate(self.tasks[:-1])
        ]
        return f"{sum(then == now for then, now in pairs)} of {len(pairs)}"


@dataclass(frozen=True)
class Report:
    """One sequence with one number of steps.

    Attributes:
        name: `continual-SEQUENCE-STEPS`.
        lines: the finished runs.
        figures: of each line, with where they come from and the records behind them.
        text: the tables.
    """

    name: str
    lines: list[Line]
    figures: dict[str, object]
    text: str


def reports(records: Sequence[Record]) -> list[Report]:
    """What was finished, a report for each sequence.

    Raises:
        MixedResults: the records come from different commits or backbones.
    """
    origin = only([Origin.of(record) for record in records])
    return [
        _report(origin, sequence, steps, group, lines)
        for (sequence, steps), group in grouped(records, "sequence", "steps")
        if (lines := finished(group))
    ]


def _report(
    origin: Origin, sequence: str, steps: int, records: list[Record], lines: list[Line]
) -> Report:
    measures = {id(line): measured(line, lines) for line in lines}
    parts = [_heading(sequence, steps, lines), _summary(sequence, lines, measures)]
    parts += [_course(sequence, lines), _routing(lines), _shadows(lines), _drift(lines)]
    parts += [f"{NOTE} By {origin}."]
    figures = [
        {
            "method": line.method,
            "way": line.way,
            "seed": line.seed,
            "unchanged": line.unchanged(),
            **vars(measures[id(line)]),
        }
        for line in lines
    ]
    found = {**vars(origin), "sequence": sequence, "steps": steps, "lines": figures}
    return Report(
        f"continual-{sequence}-{steps}",
        lines,
        found | {"records": records},
        "\n\n".join(filter(None, parts)),
    )


NOTE = (
    "± is the standard deviation over seeds, where there are several. Backward and forward "
    "transfer and forgetting are in nats a token (−ln perplexity; for classes in accuracy), "
    "higher being better but for forgetting. Average perplexity is the geometric mean. Equal "
    "bits: of how many earlier tasks every test row's loss is, at the end, bit for bit what it "
    "was when the task was committed. Stored bytes count 2 a number for the rivals, and niwfctl's "
    "sealed objects as they are, without the coordinate map, which all tasks share; of Any-SSR "
    "the most is its router's matrix, which does not grow with tasks. Cost: time to score a batch "
    "over the bare backbone's; routers of the rivals read their states in a pass of their own, "
    "and PEFT keeps adapters in float32 beside a bf16 model. Joint training teaches one LoRA of "
    "that size all tasks together, in the steps of all; what learns a LoRA or region a task has "
    "as many times its parameters in the end. Drift: gates by their mean absolute change, ΔW by "
    "the norm of its change over its own; at the anchors of the lock, between them (fresh samples "
    "of the region) and where held-out prompts lie. z moved tells how far their coordinates went, "
    "in radii of the region; inside, how many of them it holds; other gates open, for how many "
    "the open gates are other ones."
)


def finished(records: Sequence[Record]) -> list[Line]:
    """The finished runs, in the order of the methods; the base first."""
    lines = []
    for (method, seed), group in grouped(records, "method", "seed"):
        ordered = sorted(group, key=lambda record: record["row"])
        if ordered[-1]["last"]:
            ways = ordered[-1]["scores"]
            lines += [Line(method, way, seed, ordered) for way in ways]
    places = {name: index for index, name in enumerate(METHODS)}
    return sorted(lines, key=lambda line: (places[line.method], line.way != GIVEN, line.seed))


def measured(line: Line, lines: Sequence[Line]) -> Transfer:
    """The four measures of a line; None where earlier figures are missing."""
    kind, tasks = _score_of(line), line.tasks
    bare = next((other for other in lines if other.method == BASE), None)
    if not line.whole:
        final = [kind(line, -1, task) for task in tasks]
        return Transfer(statistics.fmean(final), None, None, None)
    matrix = [[kind(line, row, task) for task in tasks] for row in range(len(tasks))]
    untrained = [kind(bare, -1, task) for task in tasks] if bare else [math.nan] * len(tasks)
    return transfer(matrix, list(range(len(tasks))), untrained)


def _score_of(line: Line):
    """The score that the measures use: accuracy for classes, otherwise −ln perplexity."""
    if line.records[0]["sequence"] == CLASSES:
        return lambda one, row, task: one.figure(row, task, "accuracy")
    return lambda one, row, task: -math.log(one.figure(row, task, "perplexity"))


def _heading(sequence: str, steps: int, lines: Sequence[Line]) -> str:
    seeds = sorted({line.seed for line in lines})
    rates = {f"{line.records[-1].get('lr', EARLIER_RATE):g}" for line in lines}
    return (
        f"### {sequence}: {' → '.join(lines[0].tasks)}\n\n"
        f"{steps} steps a task at a rate of at most {', '.join(sorted(rates))}, "
        f"seeds {', '.join(map(str, seeds))}."
    )


def _summary(sequence: str, lines: Sequence[Line], measures: dict[int, Transfer]) -> str:
    classes = sequence == CLASSES
    name = "accuracy" if classes else "perplexity"
    tasks = lines[0].tasks
    columns = ["method", "seeds", *(f"{task}, {name}" for task in tasks), "average"]
    columns += ["backward", "forgetting", "forward", "equal bits", "MB a task"]
    columns += ["M parameters a task", "s a task", "cost", "needs the task"]
    rows = []
    for title, group in by_title(lines):
        final = [_spread([one.figure(-1, task, name) for one in group]) for task in tasks]
        found = [measures[id(one)] for one in group]
        averages = [one.average if classes else math.exp(-one.average) for one in found]
        last = [one.records[-1] for one in group]
        count = len(tasks)
        rows.append(
            [
                title,
                ", ".join(str(one.seed) for one in group),
                *final,
                _spread(averages),
                _signed([one.backward for one in found]),
                _signed([one.forgetting for one in found]),
                _signed([one.forward for one in found]),
                ", ".join(dict.fromkeys(one.unchanged() for one in group)),
                f"{last[0]['bytes'] / count / 1e6:.1f}",
                f"{last[0]['parameters'] / 1e6:.2f}",
                f"{statistics.fmean(_seconds(one) for one in group):.0f}",
                f"{statistics.fmean(r['cost'][group[0].way] for r in last):.2f}",
                "yes" if group[0].way == GIVEN else "no",
            ]
        )
    return markdown(columns, rows)


def _course(sequence: str, lines: Sequence[Line]) -> str:
    """Figures of every task after every commit, the mean over seeds."""
    name = "accuracy" if sequence == CLASSES else "perplexity"
    tasks = lines[0].tasks
    rows = []
    for title, group in by_title(lines):
        for row, learned in enumerate(tasks):
            if all(line.records[row]["scores"] for line in group):
                values = [
                    statistics.fmean(one.figure(row, task, name) for one in group) for task in tasks
                ]
                rows.append([title, learned, *(f"{value:.3f}" for value in values)])
    return f"After every commit, {name}:\n\n" + markdown(["method", "after", *tasks], rows)


def _routing(lines: Sequence[Line]) -> str:
    """Share of each task's test rows that its router assigns to it, at the end."""
    tasks = lines[0].tasks
    rows = [
        [
            TITLES[group[0].method],
            *(
                f"{statistics.fmean(one.records[-1]['routed'][task] for one in group):.1%}"
                for task in tasks
            ),
        ]
        for _, group in by_title(lines)
        if group[0].way == OPEN and group[0].records[-1]["routed"]
    ]
    return "Routed right at the end:\n\n" + markdown(["method", *tasks], rows) if rows else ""


def _shadows(lines: Sequence[Line]) -> str:
    """What earlier tasks own of each of niwfctl's, which `commit` would refuse above a share."""
    lasts = [one.records[-1] for one in lines if one.way == OPEN]
    found = [last["shadows"] for last in lasts if "shadows" in last]
    if not found:
        return ""
    shares = ", ".join(
        f"{task} {statistics.fmean(one[task] for one in found):.1%}" for task in found[0]
    )
    allowed = RoutingConfig().max_shadow
    return (
        f"Shadows, the share of a task's anchors that earlier tasks owned when niwfctl committed "
        f"it: {shares}. By default `niwfctl commit` refuses more than {allowed:.0%}, unless told "
        "to accept it; here everything was committed."
    )


DRIFT = {
    "gates_at_anchors": "gates at anchors",
    "gates_between": "gates between",
    "gates_of_prompts": "gates of its prompts",
    "weights_at_anchors": "ΔW at anchors",
    "weights_between": "ΔW between",
    "weights_of_prompts": "ΔW of its prompts",
    "moved": "z moved, radii",
    "inside_then": "inside then",
    "inside_now": "inside now",
    "rerouted": "other gates open",
}


def _drift(lines: Sequence[Line]) -> str:
    """What the paper's lock kept of the first task after the last commit."""
    rows, told = [], set()
    for _, group in by_title(lines):
        method = group[0].method  # it drifts the same however it is asked
        if method not in told and all("drift" in one.records[-1] for one in group):
            told.add(method)
            first = group[0].tasks[0]
            found = [one.records[-1]["drift"][first] for one in group]
            kept = [_spread([one[key] for one in found]) for key in DRIFT]
            then = statistics.fmean(one.figure(0, first, "perplexity") for one in group)
            now = statistics.fmean(one.figure(-1, first, "perplexity") for one in group)
            rows.append([TITLES[method], *kept, f"{then:.3f} → {now:.3f}"])
    if not rows:
        return ""
    table = markdown(["of the first task", *DRIFT.values(), "perplexity"], rows)
    return "Drift of the first task after the last commit:\n\n" + table


def by_title(lines: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    return [(title, list(group)) for title, group in groupby(lines, lambda line: line.title)]


def _seconds(line: Line) -> float:
    return sum(record["seconds"] for record in line.records) / len(line.records)


def _spread(values: Sequence[float]) -> str:
    """Mean, and ± the standard deviation over seeds; 0 means exactly zero."""
    if not any(values):
        return "0"
    mean = f"{statistics.fmean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def _signed(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = statistics.fmean(known)
    text = "0" if all(value == 0 for value in known) else f"{mean:+.3f}"
    return f"{text} ± {statistics.stdev(known):.3f}" if len(known) > 1 and any(known) else text


def grouped(records: Sequence[Record], *names: str):
    def key(record: Record) -> tuple:
        return tuple(record[name] for name in names)

    return [(value, list(group)) for value, group in groupby(sorted(records, key=key), key)]
