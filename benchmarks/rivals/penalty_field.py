"""The field of "Non-Interfering Weight Fields" (2602.18628): a trained map, and one shared bank.

What that paper leaves open is decided here, and noted where it is decided.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FieldSizes:
    """Sizes of the field.

    Attributes:
        dim: coordinates; the paper's 64.
        bases: of the bank; open in the paper.
        top_k: gates that are not zero; open in the paper.
        hidden: width of the recurrent state and of the generator's hidden layer; open.
    """

    dim: int = 64
    bases: int = 4
    top_k: int = 2
    hidden: int = 64


class RecurrentMap(nn.Module):
    """Mean-pooled states of a first pass → z.

    Open in the paper: what the GRU runs over. Here over the layers, from the embeddings up, each
    layer's pooled state normalized without parameters, so that none outweighs the others.
    """

    def __init__(self, width: int, sizes: FieldSizes) -> None:
        super().__init__()
        self.recurrent = nn.GRU(width, sizes.hidden, batch_first=True)
        self.out = nn.Linear(sizes.hidden, sizes.dim)

    def forward(self, states: Tensor) -> Tensor:
        """z, float32 [batch, dim], of pooled states [batch, layers, width]."""
        normal = nn.functional.layer_norm(states.float(), states.shape[-1:])
        _, last = self.recurrent(normal)
        return self.out(last[0])


class TopKGenerator(nn.Module):
    """z → top-k softmax gates, one vector over the bank for each adapted layer.

    Open in the paper: gates for each layer or for all at once, and their scale. Here for each
    layer; the k largest logits go through a softmax, times k, so that even gates are gates of 1
    and the field starts as plain LoRA of k times a basis's rank.
    """

    def __init__(self, layers: int, sizes: FieldSizes) -> None:
        super().__init__()
        self.layers, self.sizes = layers, sizes
        self.inner = nn.Linear(sizes.dim, sizes.hidden)
        self.outer = nn.Linear(sizes.hidden, layers * sizes.bases)

    def logits(self, z: Tensor) -> Tensor:
        """float32 [batch, layers, bases]."""
        hidden = torch.tanh(self.inner(z.float()))
        return self.outer(hidden).unflatten(-1, (self.layers, self.sizes.bases))

    def gates(self, logits: Tensor) -> Tensor:
        """The same shape; zero but for the k largest, which sum to k."""
        kept = logits.topk(self.sizes.top_k, dim=-1)
        weights = kept.values.softmax(-1) * self.sizes.top_k
        return torch.zeros_like(logits).scatter(-1, kept.indices, weights)

    def forward(self, z: Tensor) -> Tensor:
        """Gates at z, float32 [batch, layers, bases]."""
        return self.gates(self.logits(z))
