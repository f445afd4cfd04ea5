"""Random fields inside tiny random models."""

import torch
from tiny import tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from niwfctl.backbone.adapter import ActiveField, FieldAdapter
from niwfctl.backbone.sites import find_sites
from niwfctl.field.basis import Basis
from niwfctl.field.coordinates import CoordinateMap
from niwfctl.field.generator import Generator

TAP = 2
LAYERS = (2, 3)


def make_adapter(kind: str) -> tuple[FieldAdapter, ActiveField, list[Basis], Generator]:
    model = tiny_model(kind)
    sites = find_sites(model, TAP)
    adapter = FieldAdapter(model, sites, CoordinateMap.fit(torch.randn(50, 64) * 0.1, 4))
    random = torch.Generator().manual_seed(7)
    bases = [Basis.initial(sites, rank, random) for rank in (2, 3)]
    for basis in bases:
        for up in basis.up.values():
            up.normal_(std=0.3, generator=random)
    generator = Generator(4, len(LAYERS), 2).requires_grad_(False)
    torch.nn.init.normal_(generator.outer.weight)
    return adapter, ActiveField.of(adapter.groups, bases, generator, 0.5), bases, generator


def changed_model(
    kind: str, adapter: FieldAdapter, bases: list[Basis], gates: Tensor
) -> PreTrainedModel:
    """The model with weights that are changed as the field does at gates [layers, bases]."""
    changed = tiny_model(kind)
    for site in adapter.sites:
        linear = changed.get_decoder().layers[site.layer].get_submodule(site.module)
        for index, basis in enumerate(bases):
            gate = gates[LAYERS.index(site.layer), index]
            linear.weight.data += 0.5 * gate * basis.up[site.name] @ basis.down[site.name]
    return changed
