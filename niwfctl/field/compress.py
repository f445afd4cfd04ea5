"""Approximating a change of weights by one of smaller rank."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def best_rank(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best rank-r approximation of B A, without forming it (Eckart and Young, 1936).

    With B = Q_b R_b and Aᵀ = Q_a R_a, the singular values of B A are those of the small R_b R_aᵀ.

    Args:
        down: A [R, in], float32.
        up: B [out, R], float32.
        rank: r; only r < R compresses.

    Returns:
        A [r, in] and B [out, r], the singular values shared evenly.
    """
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    kept = values[:rank].sqrt()
    return (kept[:, None] * right[:rank]) @ q_down.T, q_up @ (left[:, :rank] * kept)


def truncated(matrix: Tensor, rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A nearly best rank-r approximation B A of a full matrix [out, in].

    A randomized range finder (Halko, Martinsson and Tropp, 2011); equal seeds give equal bits.

    Returns:
        A [r, in] and B [out, r].
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = min(rank + 8, *matrix.shape)
        left, values, right = torch.svd_lowrank(matrix, q=size, niter=4)
    kept = values[:rank].sqrt()
    return kept[:, None] * right[:, :rank].T, left[:, :rank] * kept


def padded(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [rank, in] and B [out, rank], contiguous: zeros are added, so B A stays the same."""
    missing = rank - len(down)
    pad = torch.nn.functional.pad
    return pad(down, (0, 0, 0, missing)).contiguous(), pad(up, (0, missing)).contiguous()


def relative_error(lost: float, norm: float) -> float:
    """√(lost / norm) of squared norms; 0 if `norm` is 0, or if rounding made `lost` negative."""
    return math.sqrt(max(lost, 0.0) / norm) if norm else 0.0


def squared_norm(down: Tensor, up: Tensor) -> float:
    """‖B A‖²_F of A [r, in] and B [out, r], from Gram matrices."""
    down, up = down.double(), up.double()
    return float(((up.T @ up) * (down @ down.T)).sum())
