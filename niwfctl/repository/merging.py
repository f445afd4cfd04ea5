"""Several regions approximated by one: gates frozen at the means of their cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from niwfctl.errors import UsageError
from niwfctl.field.basis import Basis
from niwfctl.field.compress import best_rank, truncated
from niwfctl.field.frozen import FrozenSum
from niwfctl.field.generator import Generator
from niwfctl.field.region import Region

if TYPE_CHECKING:
    from niwfctl.repository.compose import Recipe

Pairs = dict[str, tuple[Tensor, Tensor]]


def merged_region(terms: Sequence[tuple[float, Region]], recipe: Recipe) -> tuple[Region, float]:
    """A region of one basis whose gates are 1 everywhere, and its relative error in ΔW.

    Raises:
        UsageError: the method needs PEFT, which is not installed.
    """
    rank = recipe.rank or sum(basis.rank for _, region in terms for basis in region.bases)
    if recipe.method == "svd":
        pairs, error = compressed(FrozenSum.at_means(terms), rank)
    else:
        pairs, error = _by_peft(terms, recipe, rank)
    basis = Basis(
        {name: down for name, (down, _) in pairs.items()},
        {name: up.contiguous() for name, (_, up) in pairs.items()},
    ).to(dtype=torch.bfloat16)
    layers = tuple(sorted({int(name.split(".")[1]) for name in pairs}))
    occupied = torch.cat([region.occupied for _, region in terms])
    held_out = torch.arange(len(occupied)) % 5 == 0
    region = Region.seal(
        constant_generator(occupied.shape[1], len(layers)),
        (basis,),
        scale=1.0,
        layers=layers,
        coordinates=occupied[~held_out],
        held_out=occupied[held_out],
        seed=recipe.seed,
    )
    return region, error


def constant_generator(dim: int, layers: int) -> Generator:
    """A generator whose gates are 1 at every z, for one basis."""
    generator = Generator(dim, layers, 1, hidden=1)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.zero_()
    return generator


def compressed(change: FrozenSum, rank: int) -> tuple[Pairs, float]:
    """The best pairs of rank r for a change of weights, and their relative error over all sites."""
    pairs, lost, norm = {}, 0.0, 0.0
    for name in change.names:
        down, up = change.at(name)
        *pair, squared = best_rank(down, up, rank)
        pairs[name] = tuple(pair)
        lost += squared
        norm += float(((up.T @ up) * (down @ down.T)).double().sum())
    return _of_one_rank(pairs), (lost / norm) ** 0.5 if norm else 0.0


def _by_peft(
    terms: Sequence[tuple[float, Region]], recipe: Recipe, rank: int
) -> tuple[Pairs, float]:
    merge = _peft_method(recipe.method)
    weights = torch.tensor([weight for weight, _ in terms])
    each = [FrozenSum.at_means([(1.0, region)]) for _, region in terms]
    pairs, lost, norm = {}, 0.0, 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        for name in FrozenSum.at_means(terms).names:
            found = [change.at(name) for change in each]
            whole = [up @ down for down, up in found]
            matrix = merge(whole, weights, recipe.density)
            *pair, squared = truncated(matrix, rank, recipe.seed)
            pairs[name] = tuple(pair)
            lost += squared
            norm += float(matrix.double().square().sum())
    return _of_one_rank(pairs), (lost / norm) ** 0.5 if norm else 0.0


def _of_one_rank(pairs: Pairs) -> Pairs:
    """Zero rows and columns where a linear is too small for the rank: a basis has one rank."""
    rank = max(len(down) for down, _ in pairs.values())
    pad = torch.nn.functional.pad
    return {
        name: (pad(down, (0, 0, 0, rank - len(down))), pad(up, (0, rank - len(down))))
        for name, (down, up) in pairs.items()
    }


def _peft_method(name: str) -> Callable[[list[Tensor], Tensor, float], Tensor]:
    try:
        from peft.utils import merge_utils
    except ImportError:
        raise UsageError(
            f"--method {name} needs PEFT: `pip install 'niwfctl[peft]'`, or use linear or svd"
        ) from None
    return getattr(merge_utils, name)
