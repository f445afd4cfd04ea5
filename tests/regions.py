"""Small random regions."""

import torch

from niwfctl.field.basis import Basis, Site
from niwfctl.field.generator import Generator
from niwfctl.field.region import Region


def make_region(seed: int, rank: int = 2, bases: int = 2, width: int = 6) -> Region:
    sites = [Site(layer, "mlp.up_proj", width, width + 4) for layer in (2, 3)]
    torch.manual_seed(seed)
    generator = Generator(dim=4, layers=2, bases=bases)
    torch.nn.init.normal_(generator.outer.weight)
    random = torch.Generator().manual_seed(seed)
    parts = tuple(Basis.initial(sites, rank, random) for _ in range(bases))
    for basis in parts:
        for up in basis.up.values():
            up.normal_(generator=random)
    coordinates = torch.randn(100, 4, generator=random)
    return Region.seal(
        generator,
        parts,
        scale=2.0,
        layers=(2, 3),
        coordinates=coordinates[:80],
        held_out=coordinates[80:],
        seed=seed,
    )
