"""Passes of a single token: what they compute, and the memory they compute in."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from tiny import write_data
from torch import Tensor

from niwfctl.backbone.decoding import DecodeBuffers, FusedGroup, GroupBuffers, Workspace
from niwfctl.repository import Repository

BATCH, WIDTH, RANKS, OUT = 2, 6, 3, 5


def test_groups_that_share_a_workspace_may_take_turns() -> None:
    torch.manual_seed(0)
    gates = torch.rand(2, BATCH, 1, RANKS)
    downs = [torch.randn(2 * RANKS, WIDTH) for _ in range(2)]
    ups = [[torch.randn(OUT, RANKS) for _ in range(2)] for _ in range(2)]
    layers = zip(range(2), downs, ups, strict=True)
    buffers, states = DecodeBuffers(layers, gates, torch.float32, {}), torch.randn(BATCH, 1, WIDTH)

    def expected(group: int, place: int) -> Tensor:
        down = downs[group].chunk(2)[place]
        return (states @ down.T * gates[group]) @ ups[group][place].T

    assert buffers.groups[0]._workspace is buffers.groups[1]._workspace
    for place in range(2):
        for group in range(2):
            found = buffers.groups[group].add(torch.ones(BATCH, 1, OUT), place, states)
            torch.testing.assert_close(found, 1 + expected(group, place))


@pytest.mark.parametrize(
    ("device", "dtype", "kind"),
    [
        ("cpu", torch.float32, GroupBuffers),
        ("meta", torch.float32, FusedGroup),
        ("meta", torch.float16, GroupBuffers),  # the model's, not that of the factors
    ],
)
def test_beside_a_cpu_products_add_to_the_output_if_dtypes_agree(
    device: str, dtype: torch.dtype, kind: type
) -> None:
    gates = torch.rand(1, BATCH, 1, RANKS, device=device)
    down = torch.randn(2 * RANKS, WIDTH, device=device)
    ups = [torch.randn(OUT, RANKS, device=device) for _ in range(2)]
    (group,) = DecodeBuffers([(0, down, ups)], gates, dtype, {}).groups
    assert type(group) is kind


@pytest.mark.parametrize(
    ("dtype", "near"),
    [(torch.float32, {}), (torch.bfloat16, {"atol": 0.03, "rtol": 0.03})],  # rounds twice
)
def test_groups_that_add_within_products_add_the_same_and_keep_nothing(
    dtype: torch.dtype, near: dict[str, float]
) -> None:
    torch.manual_seed(0)
    gates, down = torch.rand(1, BATCH, 1, RANKS), torch.randn(2 * RANKS, WIDTH)
    gates, down = gates.to(dtype), down.to(dtype)
    ups = [torch.randn(OUT, RANKS).to(dtype) for _ in range(2)]
    (plain,) = DecodeBuffers([(0, down, ups)], gates, dtype, {}).groups
    fused = FusedGroup(down, ups, gates[0])
    for _ in range(2):
        states = torch.randn(BATCH, 1, WIDTH).to(dtype)
        for place in range(2):
            outputs = [torch.ones(BATCH, 1, OUT, dtype=dtype) for _ in range(2)]
            pair = zip((plain, fused), outputs, strict=True)
            found = [group.add(output, place, states) for group, output in pair]
            assert found[1] is outputs[1]
            torch.testing.assert_close(*found, **near)
        kept = weakref.ref(states)
        plain.forget()
        del states
        assert kept() is None


def test_however_many_fields_answer_the_workspace_is_that_of_one_layer(
    committed: Repository, tmp_path: Path
) -> None:
    committed.train("pear", [write_data(tmp_path / "pear.jsonl", word="pear")], QUICK)
    committed.commit(["pear"], "Pears")
    model, before = committed.load(None), len(workspaces())
    found = []
    for name in ("apple", "pear"):
        model.use(name)
        model.generate("Say apple 3.", max_new_tokens=4)
        found.append(len(workspaces()) - before)
    groups = len(model.adapter.groups) // len(model.adapter.layers)
    assert found == [groups, groups]


def workspaces() -> list[Workspace]:
    gc.collect()
    return [one for one in gc.get_objects() if type(one) is Workspace]
