"""Whether a field can act in an architecture, checked before anything is built on it."""

from __future__ import annotations

import torch

from niwfctl.backbone.adapter import ActiveField, FieldAdapter
from niwfctl.backbone.prompts import Tokens
from niwfctl.backbone.scoring import Scorer
from niwfctl.errors import BackboneError, of_device, of_memory
from niwfctl.field.basis import Basis
from niwfctl.field.generator import Generator

_ROWS = [Tokens([1, 2, 3], [4, 5]), Tokens([1], [2])]  # of two lengths, as in real batches


@torch.no_grad()
def require_supported(adapter: FieldAdapter) -> None:
    """Checks it by scoring two short rows with the smallest possible field.

    Raises:
        BackboneError: the model's linears do not get a batch as rows of tokens, or its logits are
            not its output layer applied to its last states.
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
        if of_memory(error) or of_device(error):  # not the model's fault
            raise
        raise BackboneError(
            f"{type(model).__name__} is not supported: its linears are not called with one "
            "state per token, [rows, tokens, width]"
        ) from error
    finally:
        adapter.active = None
