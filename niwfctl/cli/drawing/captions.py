"""What a map says about regions, anchors and prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from niwfctl.atlas import BASE_NAME
from niwfctl.cli.output import number

if TYPE_CHECKING:
    from niwfctl.atlas import Capability
    from niwfctl.repository.map import Area, Map, Point

LEGEND = (
    "An ellipse holds 95% of a cell in this plane; it is dashed if nothing is routed to the "
    "region. A small marker is an anchor, hollow if its own region does not answer there. A line "
    "joins two regions if the later one takes over anchors."
)


def legend(chart: Map) -> str:
    """How to read the picture."""
    parts = [LEGEND]
    if chart.shown is not None:
        parts.insert(
            0,
            f"The plane shows {chart.shown:.0%} of what sets the cells apart; what overlaps in it "
            "may be far apart in other directions.",
        )
    if chart.prompts or chart.data:
        parts.append("A cross is a prompt.")
    return " ".join(parts)


def owner(chart: Map, index: int | None) -> str:
    """What an owner is called."""
    return BASE_NAME if index is None else chart.areas[index].label


def facts(chart: Map, index: int) -> dict[str, str]:
    """Facts about a region, by heading."""
    area = chart.areas[index]
    run = area.entry.run
    taken = [
        f"{one.won / one.anchors:.1%} of {chart.areas[earlier].label} (95% bound {one.bound:.1%})"
        for later, earlier, one in chart.takeovers
        if later == index
    ]
    return {
        "region": area.entry.id,
        "perplexity": f"{number(run.base_perplexity)} (base) → {number(run.perplexity)}",
        "anchors": tally(chart, area.anchors, index),
        "shadow": _shadow(chart, area),
        "takes over": ", ".join(taken) or "nothing",
    }


def tally(chart: Map, points: Sequence[Point], own: int | None = -1) -> str:
    """Each owner's share of some points, the largest first; the owner `own` is called so."""
    counts = Counter(point.owner for point in points).most_common()
    return ", ".join(
        f"{count / len(points):.1%} {'own' if at == own else owner(chart, at)}"
        for at, count in counts
    )


def says(chart: Map, index: int | None) -> str:
    """A cell's name, then the facts about it, a line each."""
    if index is None:
        return f"{BASE_NAME}\nits own cell, of general prompts\nalso answers outside all cells"
    lines = (f"{heading}: {value}" for heading, value in facts(chart, index).items())
    return "\n".join([chart.areas[index].label, *lines])


def composition(chart: Map, capability: Capability) -> str:
    """What a capability without a region of its own is made of."""
    parts = [f"{part.weight:+g}·{part.of}" for part in capability.parts]
    if parts:
        return f"{capability.name} is composed of {' '.join(parts)} and has no region of its own"
    there = {area.entry.id: area.label for area in chart.areas}
    names = ", ".join(there[entry.id] for entry in capability.regions)
    return f"{capability.name} answers with whichever of {names} owns the prompt"


def shortened(text: str, longest: int) -> str:
    """A text without line breaks and control characters, shortened."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _shadow(chart: Map, area: Area) -> str:
    if not area.routed or area.entry.routing is None:
        return "never routed to"
    names = {BASE_NAME: BASE_NAME} | {one.entry.id: one.label for one in chart.areas}
    shadow = area.entry.routing.shadow
    parts = ", ".join(f"{names.get(key, key)} {share:.1%}" for key, share in shadow.items())
    return f"{sum(shadow.values()):.1%} ({parts})" if shadow else "none"
