"""Whether a field can act in an architecture, found out before anything is made on it."""

from __future__ import annotations

import torch

from niwfctl.backbone.adapter import ActiveField, FieldAdapter
from niwfctl.backbone.prompts import Tokens
from niwfctl.backbone.scoring import Scorer
from niwfctl.errors import BackboneError, of_memory
from niwfctl.field.basis import Basis
from niwfctl.field.generator import Generator

_ROWS = [Tokens([1, 2, 3], [4, 5]), Tokens([1], [2])]  # of two lengths, as batches have them


@torch.no_grad()
def require_supported(adapter: FieldAdapter) -> None:
    """Scores two short rows with the smallest field there is.

    Raises:
        BackboneError: the model's linears do not see a batch as rows of tokens, or its logits are
            not its output layer on its last states.
    """
    random = torch.Generator().manual_seed(0)
    model, dim = adapter.model, adapter.coordinates.dim
    basis = Basis.initial([site for group in adapter.groups for site in group], 1, random)
    basis = basis.to(device=model.device, dtype=model.dtype)
    generator = Generator.constant(dim, len(adapter.layers), 1).to(model.device)
    scorer = Scorer(adapter, skip=0)
    adapter.active = ActiveField.of(adapter.groups, [basis], generator, 1.0)
    try:
        scorer.loss(_ROWS)
    except RuntimeError as error:
        if of_memory(error) or "CUDA error" in str(error):  # which tells nothing of the model
            raise
        raise BackboneError(
            f"{type(model).__name__} is not supported: its linears are not called with one row of "
            "states a token, [rows, tokens, width]"
        ) from error
    finally:
        adapter.active = None
