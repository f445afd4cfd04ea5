"""The order in which rows are learned from."""

from pathlib import Path

import pytest
import torch
from calls import Names
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


def test_a_step_waits_for_the_device_once_all_but_its_update_is_asked_for(
    fresh: Repository, data: Path
) -> None:
    model = Model(fresh)
    options = QUICK.model_copy(update={"batch_size": 2, "grad_accum": 2})
    rows = encoded(model, read_examples([str(data)]), options)
    run = new_run(model, "apple", [], "", rows, options, steps=1)
    trainer = Trainer(model.adapter, model.skip, run, rows.training, rows.held_out)
    with Names() as called:
        trainer.step()
    last = len(called.names) - called.names[::-1].index("backward")
    waits = [name in ("__float__", "item", "cpu", "tolist") for name in called.names[last:]]
    norms = ["norm" in name for name in called.names[last:]]
    assert any(norms) and waits.index(True) > max(i for i, norm in enumerate(norms) if norm)
