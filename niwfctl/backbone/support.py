"""Whether a field can act in an architecture, checked before anything is built on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import GenerationConfig

from niwfctl.backbone.adapter import ActiveField, FieldAdapter
from niwfctl.backbone.batch import pad, prompt_mask
from niwfctl.backbone.generation import nothing_but
from niwfctl.backbone.prompts import Tokens
from niwfctl.backbone.quiet import quiet
from niwfctl.backbone.scoring import Scorer
from niwfctl.errors import BackboneError, NiwfError, of_device, of_memory
from niwfctl.field.basis import Basis
from niwfctl.field.generator import Generator

_ROWS = [Tokens([1, 2, 3], [4, 5]), Tokens([1], [2])]  # of two lengths, as in real batches


@torch.no_grad()
def require_supported(adapter: FieldAdapter) -> None:
    """Checks it by scoring and continuing two short rows with the smallest possible field.

    Raises:
        BackboneError: the model's linears do not get a batch as rows of tokens, or its logits are
            not its output layer applied to its last states; or it cannot go on token by token.
    """
    random = torch.Generator().manual_seed(0)
    model, dim = adapter.model, adapter.coordinates.dim
    basis = Basis.initial([site for group in adapter.groups for site in group], 1, random)
    basis = basis.to(device=model.device, dtype=model.dtype)
    generator = Generator.constant(dim, len(adapter.layers), 1).to(model.device)
    scorer = Scorer(adapter, skip=0)
    adapter.active = ActiveField.of(adapter.groups, [basis], generator, 1.0)
    try:
        with _or_refused(
            model, "its linears are not called with one state per token, [rows, tokens, width]"
        ):
            scorer.loss(_ROWS)
        with _or_refused(
            model, "it cannot answer token by token with what it keeps of earlier ones"
        ):
            _continue(adapter)
    finally:
        adapter.active = None


def _continue(adapter: FieldAdapter) -> None:
    """Adds two tokens to each row, the second one in a pass of its own."""
    rows = [row.prompt for row in _ROWS]
    lengths, tokens = [len(row) for row in rows], pad(rows, left=True)
    mask = prompt_mask(lengths, tokens.shape[1], 0, left=True)
    options = GenerationConfig(max_new_tokens=2, do_sample=False, pad_token_id=0)
    device = adapter.model.device
    with adapter.prompts(mask), nothing_but(options, adapter.model), quiet():
        adapter.model.generate(
            tokens.to(device), attention_mask=mask.long().to(device), generation_config=options
        )


@contextmanager
def _or_refused(model: nn.Module, why: str) -> Iterator[None]:
    """A block in which any error is the model's, unless a device or its memory is at fault."""
    try:
        yield
    except Exception as error:  # models raise errors of every kind where they are used otherwise
        if isinstance(error, NiwfError) or of_memory(error) or of_device(error):
            raise
        raise BackboneError(f"{type(model).__name__} is not supported: {why}") from error
