"""Several regions approximated by one: gates frozen at the means of their cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from niwfctl.backbone.quiet import quiet
from niwfctl.errors import UsageError
from niwfctl.field.basis import Basis
from niwfctl.field.compress import best_rank, padded, relative_error, squared_norm, truncated
from niwfctl.field.frozen import FrozenSum
from niwfctl.field.generator import Generator
from niwfctl.field.region import Region
from niwfctl.training.run import LARGEST_RANK

if TYPE_CHECKING:
    from niwfctl.repository.compose import Recipe

DENSITY = 0.5  # if the recipe gives none
Pairs = dict[str, tuple[Tensor, Tensor]]


def approximated_region(
    terms: Sequence[tuple[float, Region]], recipe: Recipe
) -> tuple[Region, float]:
    """A region of one basis whose gates are 1 everywhere, and its relative error in ΔW.

    The error is that of the basis as stored, in bf16: compared with the sum for `svd`, and with the
    method's result on full matrices for PEFT's methods.

    Raises:
        UsageError: the rank is too large, or the method needs PEFT, which is not installed.
    """
    rank = recipe.rank or sum(basis.rank for _, region in terms for basis in region.bases)
    _require_small(terms, rank)
    if recipe.method == "svd":
        pairs, error = compressed(FrozenSum.at_means(terms), rank)
    else:
        pairs, error = _by_peft(terms, recipe, rank)
    basis = Basis(
        {name: down for name, (down, _) in pairs.items()},
        {name: up for name, (_, up) in pairs.items()},
    )
    layers = basis.layers
    occupied = torch.cat([region.occupied for _, region in terms])
    held_out = torch.arange(len(occupied)) % 5 == 0
    region = Region.seal(
        Generator.constant(occupied.shape[1], len(layers), 1),
        (basis,),
        scale=1.0,
        layers=layers,
        coordinates=occupied[~held_out],
        held_out=occupied[held_out],
        seed=recipe.seed,
    )
    return region, error


def _require_small(terms: Sequence[tuple[float, Region]], rank: int) -> None:
    """Requires that a basis may have the rank, as far as the linears are large enough for it."""
    first = terms[0][1].bases[0]
    widest = max(min(first.down[name].shape[1], first.up[name].shape[0]) for name in first.down)
    if min(rank, widest) > LARGEST_RANK:
        raise UsageError(
            f"the result would have rank {min(rank, widest)}: give --rank {LARGEST_RANK} or less, "
            "or compose with `--method linear`, which is exact at any rank"
        )


def compressed(change: FrozenSum, rank: int) -> tuple[Pairs, float]:
    """The best pairs of rank r for a change of weights, in bf16, and their relative error."""
    pairs, lost, norm = {}, 0.0, 0.0
    for name in change.names:
        down, up = change.at(name)
        near_down, near_up = pairs[name] = _stored(*best_rank(down, up, rank))
        lost += squared_norm(torch.cat([down, near_down]), torch.cat([up, -near_up], dim=1))
        norm += squared_norm(down, up)
    return _of_one_rank(pairs), relative_error(lost, norm)


def _by_peft(
    terms: Sequence[tuple[float, Region]], recipe: Recipe, rank: int
) -> tuple[Pairs, float]:
    merge = _peft_method(recipe.method)
    weights = torch.tensor([weight for weight, _ in terms], dtype=torch.float32)
    each = [FrozenSum.at_means([(1.0, region)]) for _, region in terms]
    pairs, lost, norm = {}, 0.0, 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        for name in FrozenSum.at_means(terms).names:
            found = [change.at(name) for change in each]
            whole = [up @ down for down, up in found]
            matrix = merge(whole, weights, DENSITY if recipe.density is None else recipe.density)
            matrix = matrix.float()  # counts in it are of torch's default dtype
            down, up = pairs[name] = _stored(*truncated(matrix, rank, recipe.seed))
            lost += float((matrix - up.float() @ down.float()).double().square().sum())
            norm += float(matrix.double().square().sum())
    return _of_one_rank(pairs), relative_error(lost, norm)


def _stored(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return down.to(torch.bfloat16), up.to(torch.bfloat16)


def _of_one_rank(pairs: Pairs) -> Pairs:
    """Pads the linears that are too small for the rank: a basis has one rank."""
    rank = max(len(down) for down, _ in pairs.values())
    return {name: padded(down, up, rank) for name, (down, up) in pairs.items()}


def _peft_method(name: str) -> Callable[[list[Tensor], Tensor, float], Tensor]:
    try:
        with quiet():
            from peft.utils import merge_utils
    except ImportError:
        raise UsageError(
            f"--method {name} needs PEFT: `pip install 'niwfctl[peft]'`, or use linear or svd"
        ) from None
    return getattr(merge_utils, name)
