"""PEFT as the benchmarks set it up, as usual and without work that niwfctl does not do either."""

import pytest
import torch
from common import PeftAtAnswers, PeftTrainer
from speed import shown

from niwfctl.backbone.sites import find_sites
from niwfctl.field.basis import Basis

TAP = 1


def layers_of(trainer: PeftTrainer) -> set[int]:
    names = (name for name, p in trainer.model.named_parameters() if p.requires_grad)
    return {int(name.split(".layers.")[1].split(".")[0]) for name in names}


def test_peft_is_on_all_layers_or_on_those_from_the_first_up(load_tiny, setting) -> None:
    usual = PeftTrainer(load_tiny().model, setting.options, 4)
    above = PeftAtAnswers(load_tiny().model, setting.options, 4, first_layer=TAP)
    assert layers_of(usual) == {0, 1, 2, 3}
    assert layers_of(above) == {1, 2, 3}


def test_on_the_same_layers_peft_has_the_parameters_of_two_bases_of_half_the_rank(
    load_tiny, setting
) -> None:
    model = load_tiny().model
    basis = Basis.initial(find_sites(model, TAP), 2, torch.Generator())
    ours = 2 * sum(tensor.numel() for tensor in basis.tensors().values())
    above = PeftAtAnswers(model, setting.options, 4, first_layer=TAP)
    assert sum(p.numel() for p in above.parameters) == ours


def test_logits_at_answer_tokens_only_give_the_same_losses(load_tiny, setting, tasks) -> None:
    rows = tasks[0].training
    usual = PeftTrainer(load_tiny().model, setting.options, 4)
    spared = PeftAtAnswers(load_tiny().model, setting.options, 4)
    for step in range(3):
        batch = rows[4 * step : 4 * step + 4]
        assert spared.step(batch, step, 3) == pytest.approx(usual.step(batch, step, 3), rel=1e-3)


def test_rounds_are_shown_by_their_median_and_their_spread() -> None:
    assert shown([1.5, 1.0, 1.25]) == "1.25 (1.00 to 1.50)"
    assert shown(None) == ""
