"""Changes of weights, against the matrices themselves."""

import torch
from rivals.drift import weights_change

from niwfctl.field.basis import Basis, Site

SITES = [Site(1, "a", 6, 5), Site(2, "b", 4, 7)]


def bank(random: torch.Generator) -> list[Basis]:
    """Two bases of rank 3 that are nowhere zero."""
    return [
        Basis(
            {site.name: torch.randn(3, site.in_features, generator=random) for site in SITES},
            {site.name: torch.randn(site.out_features, 3, generator=random) for site in SITES},
        )
        for _ in range(2)
    ]


def change(gates: torch.Tensor, bases: list[Basis], site: int) -> torch.Tensor:
    """ΔW of one site."""
    name = SITES[site].name
    return sum(
        g * (basis.up[name] @ basis.down[name]) for g, basis in zip(gates[site], bases, strict=True)
    )


def test_the_change_of_weights_is_that_of_the_matrices() -> None:
    random = torch.Generator().manual_seed(0)
    old, new = bank(random), bank(random)
    before, now = torch.rand(2, 4, 2, 2, generator=random)
    expected = 0.0
    for place in range(4):
        pairs = [(change(before[place], old, s), change(now[place], new, s)) for s in range(2)]
        moved = sum((b - a).square().sum() for a, b in pairs)
        expected += float((moved / sum(a.square().sum() for a, _ in pairs)).sqrt()) / 4
    assert abs(weights_change((before, old), (now, new)) - expected) < 1e-5


def test_equal_weights_have_not_changed_at_all() -> None:
    random = torch.Generator().manual_seed(0)
    bases, gates = bank(random), torch.rand(4, 2, 2, generator=random)
    assert weights_change((gates, bases), (gates.clone(), bases)) == 0.0
