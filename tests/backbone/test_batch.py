"""Rows of many lengths, batched by length."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from niwfctl.backbone.batch import by_length
from niwfctl.records import Example, Message
from niwfctl.repository import Repository


@given(st.lists(st.text(max_size=20), max_size=40), st.integers(1, 9))
def test_every_row_is_in_one_run_and_no_run_is_too_long(rows: list[str], size: int) -> None:
    runs = list(by_length(rows, size))
    assert sorted(place for run in runs for place in run) == list(range(len(rows)))
    assert all(len(run) <= size for run in runs)
    lengths = [len(rows[place]) for run in runs for place in run]
    assert lengths == sorted(lengths)


def test_coordinates_come_in_the_order_of_the_examples(fresh: Repository) -> None:
    model = fresh.load()
    words = ["a", "a much longer prompt than the others", "two words", "b"] * 3
    examples = [Example((Message("user", word),), "", word) for word in words]
    together = model.coordinates(examples, batch_size=5)
    alone = torch.stack([model.coordinate(word) for word in words])
    torch.testing.assert_close(together, alone, atol=0.05, rtol=0.05)  # bf16, padded otherwise
    assert torch.cdist(together, alone).argmin(1).remainder(4).tolist() == [0, 1, 2, 3] * 3
