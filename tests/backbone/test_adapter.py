"""Behaviour of the field inside tiny random models of each architecture."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from calls import Names
from fields import LAYERS, changed_model, make_adapter
from tiny import CONFIGS, tiny_model
from torch import Tensor

from niwfctl.backbone.adapter import ActiveField, FieldAdapter
from niwfctl.backbone.decoding import FusedGroup
from niwfctl.backbone.prompts import Tokens
from niwfctl.backbone.recompute import recompute_layers
from niwfctl.backbone.scoring import Scorer
from niwfctl.backbone.sites import find_sites
from niwfctl.errors import BackboneError, UsageError
from niwfctl.field.coordinates import CoordinateMap


def logits(adapter: FieldAdapter, tokens: Tensor, mask: Tensor | None = None, **rest) -> Tensor:
    mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    with torch.no_grad(), adapter.prompts(mask):
        return adapter.model(tokens, **rest).logits


@pytest.mark.parametrize("kind", CONFIGS)
def test_without_an_active_field_the_logits_are_the_backbones_bit_for_bit(kind: str) -> None:
    tokens = torch.randint(0, 97, (2, 9))
    with torch.no_grad():
        bare = tiny_model(kind)(tokens).logits
    adapter, active, *_ = make_adapter(kind)
    adapter.active = active
    assert not torch.equal(logits(adapter, tokens), bare)
    adapter.active = None
    assert torch.equal(logits(adapter, tokens), bare)


@pytest.mark.parametrize(
    "kind", [kind for kind in CONFIGS if kind != "zamba2"]
)  # it shares weights
def test_one_pass_equals_a_model_whose_weights_were_changed(kind: str) -> None:
    tokens = torch.randint(0, 97, (1, 9))
    adapter, active, bases, generator = make_adapter(kind)
    adapter.active = active
    adapted = logits(adapter, tokens)
    changed = changed_model(kind, adapter, bases, generator(adapter.z)[0])
    with torch.no_grad():
        torch.testing.assert_close(adapted, changed(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_row_of_a_left_padded_batch_is_answered_as_if_alone(kind: str) -> None:
    adapter, active, *_ = make_adapter(kind)
    adapter.active = active
    long, short = torch.randint(0, 97, (1, 9)), torch.randint(0, 97, (1, 5))
    padded = torch.cat([long, torch.nn.functional.pad(short, (4, 0))])
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, :4] = False
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    together = logits(adapter, padded, mask, attention_mask=mask.long(), position_ids=positions)
    torch.testing.assert_close(together[0:1], logits(adapter, long), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[1:2, 4:], logits(adapter, short), atol=1e-5, rtol=1e-5)


def test_gates_stay_as_the_prompt_set_them_while_tokens_are_generated() -> None:
    adapter, active, *_ = make_adapter("mistral")
    adapter.active = active
    tokens = torch.randint(0, 97, (1, 6))
    with torch.no_grad(), adapter.prompts(torch.ones(1, 6, dtype=torch.bool)):
        first = adapter.model(tokens, use_cache=True)
        z = adapter.z
        adapter.model(tokens[:, :1], past_key_values=first.past_key_values)
        assert adapter.z is z


def assert_token_by_token_is_one_pass(adapter: FieldAdapter, rows: int) -> None:
    tokens = torch.randint(0, 97, (rows, 12))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 8:] = False  # the prompts end there
    together = logits(adapter, tokens, mask)
    with torch.no_grad(), adapter.prompts(mask[:, :8]):
        passed = adapter.model(tokens[:, :8], use_cache=True)
        for place in range(8, 12):
            cache = passed.past_key_values
            passed = adapter.model(tokens[:, place : place + 1], past_key_values=cache)
            torch.testing.assert_close(
                passed.logits[:, 0], together[:, place], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("kind", CONFIGS)
def test_token_by_token_gives_what_one_pass_over_all_tokens_gives(kind: str) -> None:
    adapter, active, *_ = make_adapter(kind)
    adapter.active = active
    assert_token_by_token_is_one_pass(adapter, 3)


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_decodes_on_a_gpu_gives_what_one_pass_over_all_tokens_gives(kind: str) -> None:
    adapter, active, *_ = make_adapter(kind)
    adapter.active = active
    assert_token_by_token_is_one_pass(adapter, 3)
    factors, buffers = active.factors.decoding, active.buffers
    buffers.groups = [
        FusedGroup(
            down,
            [factors.up[site.name] for site in group],
            buffers.gates[LAYERS.index(group[0].layer)],
        )
        for group, down in zip(adapter.groups, factors.down, strict=True)
    ]
    assert_token_by_token_is_one_pass(adapter, 3)
    assert active.buffers is buffers


def test_each_batch_of_prompts_decodes_with_its_own_gates_whatever_came_before() -> None:
    adapter, active, *_ = make_adapter("mistral")
    adapter.active = active
    for rows in (1, 1, 3, 3, 1):
        assert_token_by_token_is_one_pass(adapter, rows)


def test_detaching_leaves_the_model_as_it_was() -> None:
    adapter, active, *_ = make_adapter("llama")
    adapter.active = active
    recompute_layers(adapter)
    adapter.detach()
    tokens = torch.randint(0, 97, (2, 9))
    with torch.no_grad():
        assert torch.equal(adapter.model(tokens).logits, tiny_model("llama")(tokens).logits)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in adapter.model.modules())
    assert not any("forward" in vars(m) for m in adapter.model.modules())


def test_layers_are_recomputed_once_however_often_it_is_asked_for() -> None:
    adapter, active, *_ = make_adapter("llama")
    adapter.active = active
    layer = adapter.model.get_decoder().layers[3]
    recompute_layers(adapter)
    recompute_layers(adapter)
    ran: list[int] = []
    layer.mlp.register_forward_pre_hook(lambda *_: ran.append(1))
    tokens = torch.randint(0, 97, (2, 9))
    states = adapter.model.get_input_embeddings()(tokens).requires_grad_()
    with adapter.prompts(torch.ones_like(tokens, dtype=torch.bool)):
        loss = adapter.model(inputs_embeds=states).logits.sum()
    loss.backward()
    assert len(ran) == 2


@pytest.mark.parametrize("tap", [-1, 0, 4])
def test_a_tap_layer_out_of_range_is_refused_with_the_range(tap: int) -> None:
    with pytest.raises(BackboneError, match="choose 1 to 3"):
        find_sites(tiny_model(), tap)


@pytest.mark.parametrize("recomputing", [False, True])
def test_a_detached_model_is_freed_as_soon_as_nothing_refers_to_it(recomputing: bool) -> None:
    model = tiny_model()
    sites = find_sites(model, 2)
    adapter = FieldAdapter(model, sites, CoordinateMap.fit(torch.randn(50, 64), 4))
    if recomputing:
        recompute_layers(adapter)
    adapter.detach()
    del adapter
    left = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert left() is None
    finally:
        gc.enable()


def test_gates_of_bases_of_one_rank_are_repeated_without_sending_a_gpu_the_ranks() -> None:
    adapter, _, bases, generator = make_adapter("mistral")
    alike = ActiveField.of(adapter.groups, [bases[0]] * 2, generator, 0.5)
    z = torch.randn(3, 4)
    expected = (generator(z) * 0.5).transpose(0, 1).unsqueeze(2)
    assert torch.equal(alike.row_gates(z), expected.repeat_interleave(2, dim=-1))
    there = ActiveField.of(adapter.groups, [bases[0]] * 2, generator.to("meta"), 0.5)
    z = z.to("meta")
    with Names() as called:
        assert there.row_gates(z).shape == (*expected.shape[:-1], 4)
    assert "repeat_interleave" in called.names and "tensor" not in called.names


def test_what_a_loss_is_computed_from_is_on_the_device_before_the_model_computes() -> None:
    adapter, *_ = make_adapter("mistral")
    scorer = Scorer(adapter, skip=1)
    with Names() as called:
        scorer.loss([Tokens([1, 2, 3], [4, 5]), Tokens([1], [2])])
    begun = called.names.index("embedding")
    assert "tensor" in called.names[:begun] and "tensor" not in called.names[begun:]


def test_a_pass_that_raises_leaves_no_activations() -> None:
    adapter, active, *_ = make_adapter("mistral")
    adapter.active = active
    read: list[weakref.ref] = []

    def fail(module: torch.nn.Module, args: tuple) -> None:
        read.append(weakref.ref(args[0]))
        raise MemoryError

    attention = adapter.model.get_decoder().layers[2].self_attn
    attention.k_proj.register_forward_pre_hook(fail)  # q_proj has begun their product
    with pytest.raises(MemoryError):
        logits(adapter, torch.randint(0, 97, (2, 9)))
    gc.collect()  # the traceback held frames
    assert read[0]() is None


@pytest.mark.parametrize("acting", [False, True])
def test_a_model_with_a_field_inside_refuses_to_be_copied_or_pickled_until_it_is_taken_out(
    acting: bool,
) -> None:
    adapter, active, *_ = make_adapter("mistral")
    adapter.active = active if acting else None
    for attempt in (
        copy.deepcopy,
        pickle.dumps,
        lambda model: torch.save(model, io.BytesIO()),
        lambda model: copy.deepcopy(model.get_decoder().layers),
    ):
        with pytest.raises(UsageError, match="neither copied nor pickled: close it with"):
            attempt(adapter.model)
    adapter.detach()
    twin = copy.deepcopy(adapter.model)
    for weight in twin.parameters():
        weight.data.zero_()
    assert not twin(torch.tensor([[1, 2]])).logits.any()
    assert adapter.model(torch.tensor([[1, 2]])).logits.any()
