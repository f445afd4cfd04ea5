"""Passes of a single token: what they compute, and what they keep for it."""

import gc
from pathlib import Path

import torch
from conftest import QUICK
from tiny import write_data
from torch import Tensor

from niwfctl.backbone.decoding import Room, SingleTokens
from niwfctl.repository import Repository

BATCH, WIDTH, RANKS, OUT = 2, 6, 3, 5


def test_groups_that_share_their_room_may_take_turns() -> None:
    torch.manual_seed(0)
    gates = torch.rand(2, BATCH, 1, RANKS)
    downs = [torch.randn(2 * RANKS, WIDTH) for _ in range(2)]
    ups = [[torch.randn(OUT, RANKS) for _ in range(2)] for _ in range(2)]
    layers = zip(range(2), downs, ups, strict=True)
    tokens, states = SingleTokens(layers, gates, torch.float32, {}), torch.randn(BATCH, 1, WIDTH)

    def expected(group: int, place: int) -> Tensor:
        down = downs[group].chunk(2)[place]
        return (states @ down.T * gates[group]) @ ups[group][place].T

    assert tokens.groups[0]._room is tokens.groups[1]._room
    for place in range(2):
        for group in range(2):
            found = tokens.groups[group].change(place, states)
            torch.testing.assert_close(found, expected(group, place))


def test_however_many_fields_answer_the_room_for_a_token_is_that_of_one_layer(
    committed: Repository, tmp_path: Path
) -> None:
    committed.train("pear", [write_data(tmp_path / "pear.jsonl", word="pear")], QUICK)
    committed.commit(["pear"], "Pears")
    model, before = committed.load(None), len(rooms())
    found = []
    for name in ("apple", "pear"):
        model.use(name)
        model.generate("Say apple 3.", max_new_tokens=4)
        found.append(len(rooms()) - before)
    groups = len(model.adapter.groups) // len(model.adapter.layers)
    assert found == [groups, groups]


def rooms() -> list[Room]:
    gc.collect()
    return [one for one in gc.get_objects() if type(one) is Room]
