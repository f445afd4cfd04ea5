"""Passes of a single token: what they compute, and the memory they compute in."""

import gc
from pathlib import Path

import torch
from conftest import QUICK
from tiny import write_data
from torch import Tensor

from niwfctl.backbone.decoding import DecodeBuffers, Workspace
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
            found = buffers.groups[group].change(place, states)
            torch.testing.assert_close(found, expected(group, place))


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
