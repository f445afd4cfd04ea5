"""How far logits differ on other kernels and for other capabilities: what `verify --deep` can tell.

    python benchmarks/platforms.py DATA_DIR FOLDER [--steps 20]

On another platform `verify --deep` requires logits that deviate by no more than LOGIT_TOLERANCE.
Two capabilities are trained in bf16, and read on the backbone in bf16 and in 4 bits: with other
kernels of the same processor, which stand for another platform, and changed in ways that a
verification should find. A FOLDER given again is continued.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import torch
from capabilities import arguments, repository_at, trained
from common import markdown, write_results

from niwfctl.backbone.adapter import ActiveField, FieldAdapter
from niwfctl.backbone.load import load
from niwfctl.backbone.probe import SEED, Probe, probe
from niwfctl.backbone.sites import find_sites
from niwfctl.field.basis import Basis
from niwfctl.field.region import Region
from niwfctl.repository import Repository
from niwfctl.repository.backbone import pinned_source
from niwfctl.repository.regions import load_region
from niwfctl.repository.verify import LOGIT_TOLERANCE
from niwfctl.training.run import TrainingOptions

FORMS = {"none": "bf16", "nf4": "NF4"}
DRAWS = (SEED, 1, 2, 3)  # of the sequences; the first is what `verify` takes
KERNELS = (("eager", True), ("sdpa", False), ("eager", False))  # (attention, whether oneDNN)
WEAKER = 0.8


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(tasks=["code", "shell"], steps=20)
    given = parser.parse_args()
    repository = repository_at(given.folder)
    for task in given.tasks:
        trained(repository, task, given.data / f"{task}.jsonl", TrainingOptions(steps=given.steps))
    regions = {
        task: load_region(repository, repository.capability(task).regions[0])
        for task in given.tasks
    }
    adapters = {form: adapter_of(repository, form) for form in FORMS}
    found = {form: deviations(adapters, form, regions) for form in FORMS}
    rows = [
        [what, *(f"{min(found[form][what]):.3f} to {max(found[form][what]):.3f}" for form in FORMS)]
        for what in next(iter(found.values()))
    ]
    table = markdown(["compared with a capability as it is", *FORMS.values()], rows)
    write_results(
        "platforms",
        {"tolerance": LOGIT_TOLERANCE, "deviations": found},
        f"{table}\n\nRoot mean square difference of the probes' logits, in standard deviations, "
        f"each sequence's logits from their mean; least and most over {' and '.join(given.tasks)} "
        f"({given.steps} steps each, trained in bf16) and {len(DRAWS)} draws of the sequences. "
        f"`verify --deep` allows {LOGIT_TOLERANCE} on another platform.",
    )


def adapter_of(repository: Repository, form: str) -> FieldAdapter:
    """The backbone in bf16 or in 4 bits, with the coordinate map of the repository."""
    model = load(pinned_source(repository), form).model
    coordinates = repository.load().adapter.coordinates
    sites = find_sites(model, repository.config.field.tap_layer)
    return FieldAdapter(model, sites, coordinates)


def deviations(
    adapters: Mapping[str, FieldAdapter], form: str, regions: Mapping[str, Region]
) -> dict[str, list[float]]:
    """How far each change moves the logits, for every capability and draw."""
    adapter = adapters[form]
    (other_form,) = set(FORMS) - {form}
    found: dict[str, list[float]] = {}
    for (name, region), seed in product(regions.items(), DRAWS):
        as_it_is = probed(adapter, region, seed)

        def note(what: str, changed: Probe, true: Probe = as_it_is) -> None:
            found.setdefault(what, []).append(true.deviation(changed))

        for attention, onednn in KERNELS:
            with kernels(adapter, attention, onednn):
                note("other kernels", probed(adapter, region, seed))
        for what, change in CHANGES.items():
            note(what, probed(adapter, change(region), seed))
        for other in (None, *(one for key, one in regions.items() if key != name)):
            note("the base, or another capability", probed(adapter, other, seed))
        note("the other quantization", probed(adapters[other_form], region, seed))
        print(form, name, seed, {what: values[-1] for what, values in found.items()}, flush=True)
    return found


def probed(adapter: FieldAdapter, region: Region | None, seed: int) -> Probe:
    """The product's probe, of sequences that any seed draws."""
    adapter.active = region and ActiveField.of_region(adapter.groups, region)
    return probe(adapter, seed)


@contextmanager
def kernels(adapter: FieldAdapter, attention: str, onednn: bool) -> Iterator[None]:
    """Computes with other kernels."""
    adapter.model.set_attn_implementation(attention)
    try:
        with torch.backends.mkldnn.flags(enabled=onednn):
            yield
    finally:
        adapter.model.set_attn_implementation("sdpa")


def without(region: Region, places: Callable[[int, str], bool]) -> Region:
    """A region with B set to zero where chosen by basis number and site name."""
    bases = [
        Basis(
            basis.down,
            {name: up * 0 if places(number, name) else up for name, up in basis.up.items()},
        )
        for number, basis in enumerate(region.bases)
    ]
    return replace(region, bases=tuple(bases))


def middle(region: Region) -> str:
    """The name of the site in the middle."""
    names = list(region.bases[0].up)
    return names[len(names) // 2]


def layer_of(name: str) -> str:
    """The number of the layer that a site is in."""
    return name.split(".")[1]


CHANGES: dict[str, Callable[[Region], Region]] = {
    "one linear of a basis zero": lambda region: without(
        region, lambda number, name: number == 0 and name == middle(region)
    ),
    "one layer of all bases zero": lambda region: without(
        region, lambda number, name: layer_of(name) == layer_of(middle(region))
    ),
    "all bases a fifth weaker": lambda region: replace(region, scale=region.scale * WEAKER),
    "one of two bases zero": lambda region: without(region, lambda number, name: number == 0),
}


if __name__ == "__main__":
    main()
