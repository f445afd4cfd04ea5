"""The order in which rows are learned from."""

from pathlib import Path

import pytest
import torch
from conftest import QUICK

from niwfctl.repository import Repository
from niwfctl.repository.model import Model
from niwfctl.repository.runs import encoded, new_run
from niwfctl.training.data import read_examples
from niwfctl.training.loop import Trainer


def test_each_epoch_is_put_in_order_once_and_has_every_row_once(
    fresh: Repository, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(fresh)
    rows = encoded(model, read_examples([str(data)]), QUICK)
    run = new_run(model, "apple", [], "", rows, QUICK, steps=24)
    trainer = Trainer(model.adapter, model.skip, run, rows.training, rows.held_out)
    count, made, shuffle = len(rows.training), [], torch.randperm

    def counted(*arguments: object, **options: object) -> torch.Tensor:
        made.append(arguments)
        return shuffle(*arguments, **options)

    monkeypatch.setattr(torch, "randperm", counted)
    order = [index for step in range(24) for index in trainer.rows_of(step)]
    assert len(order) == 3 * count and len(made) == 3
    epochs = [order[count * epoch :][:count] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_rows_of_a_step_come_shortest_first_so_that_its_batches_need_little_padding(
    fresh: Repository, data: Path
) -> None:
    model = Model(fresh)
    rows = encoded(model, read_examples([str(data)]), QUICK)
    run = new_run(model, "apple", [], "", rows, QUICK, steps=8)
    trainer = Trainer(model.adapter, model.skip, run, rows.training, rows.held_out)
    for step in range(8):
        lengths = [len(rows.training[index]) for index in trainer.rows_of(step)]
        assert lengths == sorted(lengths)
