"""Which tokens are the prompts', told to those who call transformers' own methods."""

from collections.abc import Callable

import pytest
import torch
from fields import changed_model, make_adapter
from torch import Tensor
from transformers import PreTrainedModel

from niwfctl.errors import UsageError

LONG, SHORT = [5, 6, 7, 5, 6, 7, 5, 6], [9, 8, 9, 8]
TOKENS = torch.tensor([LONG, [0] * 4 + SHORT])
ATTENTION = torch.tensor([[1] * 8, [0] * 4 + [1] * 4])
MASK = ATTENTION.bool() & (torch.arange(8) != 0)


def generated(model: PreTrainedModel, tokens: Tensor, attention: Tensor, **options) -> Tensor:
    """The tokens that follow, [rows, 6]."""
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    options = {"attention_mask": attention, "do_sample": False, "max_new_tokens": 6} | options
    with torch.no_grad():
        return model.generate(tokens, **options)[:, tokens.shape[1] :]


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_beams_of_a_padded_batch_are_those_of_each_row_and_of_changed_weights(
    options: dict[str, int],
) -> None:
    adapter, active, bases, generator = make_adapter("llama")
    adapter.active = active
    with adapter.prompts(MASK):
        together = generated(adapter.model, TOKENS, ATTENTION, **options)
    coordinates = adapter.z.unflatten(0, (2, 3))
    assert torch.equal(coordinates, coordinates[:, :1].expand_as(coordinates))
    assert not torch.allclose(*coordinates[:, 0])
    alone, changed = [], []
    for row, z in enumerate(coordinates[:, 0]):
        kept = ATTENTION[row].bool()
        tokens, attention = TOKENS[row, kept][None], ATTENTION[row, kept][None]
        with adapter.prompts(MASK[row, kept][None]):
            alone.append(generated(adapter.model, tokens, attention, **options))
        model = changed_model("llama", adapter, bases, generator(z))
        changed.append(generated(model, tokens, attention, **options))
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together, torch.cat(changed))


def test_several_samples_of_each_row_of_a_batch_are_under_its_own_coordinate() -> None:
    adapter, active, *_ = make_adapter("llama")
    adapter.active = active
    with adapter.prompts(MASK):
        generated(adapter.model, TOKENS, ATTENTION, do_sample=True, num_return_sequences=3)
    found = adapter.z
    with adapter.prompts(MASK):
        generated(adapter.model, TOKENS, ATTENTION)
    torch.testing.assert_close(found, adapter.z.repeat_interleave(3, dim=0))


def test_candidates_that_are_looked_up_in_the_prompt_change_nothing() -> None:
    adapter, active, *_ = make_adapter("llama")
    adapter.active = active
    tokens, attention, mask = TOKENS[:1], ATTENTION[:1], MASK[:1]
    with adapter.prompts(mask):
        expected = generated(adapter.model, tokens, attention)
    z, widths = adapter.z, []
    adapter.model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: widths.append(output.shape[1])
    )
    with adapter.prompts(mask):
        found = generated(adapter.model, tokens, attention, prompt_lookup_num_tokens=3)
    assert widths[0] > tokens.shape[1]
    assert torch.equal(found, expected)
    torch.testing.assert_close(adapter.z, z)


def test_coordinates_that_are_known_are_those_of_all_copies_of_their_rows() -> None:
    adapter, active, *_ = make_adapter("llama")
    adapter.active = active
    mask, known = MASK.clone(), torch.arange(4.0)
    mask[1] = False
    with adapter.prompts(mask, {1: known}):
        generated(adapter.model, TOKENS, ATTENTION, num_beams=2)
    assert torch.equal(adapter.z[2:], known.expand(2, -1)) and not adapter.z[:2].equal(
        adapter.z[2:]
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: MASK.tolist(), r"cannot be a list: give a bool tensor \[rows, tokens\]"),
        (lambda: MASK.numpy(), "cannot be a ndarray"),
        (lambda: MASK[0], r"cannot be a Tensor of shape \[8\]"),
        (lambda: torch.zeros_like(MASK), "row 0 of the mask of prompts has no True"),
        (lambda: MASK & torch.tensor([[True], [False]]), "row 1 of the mask .* own tokens"),
        (lambda: torch.cat([MASK, MASK[:1]]), r"\[3, 8\], but the first pass of shape \[2, 8\]"),
        (lambda: torch.cat([MASK, MASK], 1), r"\[2, 16\], but the first pass of shape \[2, 8\]"),
        (lambda: MASK[1:], "has 1 rows, but the first pass 2 different ones: give it a row for"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_in_a_sentence(
    wrong: Callable[[], object], said: str
) -> None:
    adapter, active, *_ = make_adapter("llama")
    adapter.active = active
    with pytest.raises(UsageError, match=said), adapter.prompts(wrong()):
        adapter.model(TOKENS, attention_mask=ATTENTION)


def test_a_call_without_a_mask_is_told_where_it_is_explained() -> None:
    adapter, active, *_ = make_adapter("llama")
    adapter.active = active
    with pytest.raises(UsageError, match=r"`with model.adapter.prompts\(mask\)`, as docs/library"):
        adapter.model(TOKENS)
