"""The methods that the benchmarks compare, on a tiny model: they learn, forget and come back."""

from dataclasses import replace

import pytest
import torch
from rivals.ewc import ElasticLora
from rivals.loop import order, seen
from rivals.olora import OrthogonalLora
from rivals.ours import Niwfctl
from rivals.penalty import PenaltyLock, Strengths
from rivals.per_task import LoraPerTask
from rivals.protocol import GIVEN
from rivals.registry import METHODS
from rivals.routers import RidgeRouter
from rivals.sequential import SequentialLora
from transformers import GenerationConfig

from niwfctl.backbone.prompts import Tokens
from niwfctl.training.loop import Trainer

LEARNING = [name for name in METHODS if name != "base"]
INCREMENTAL = [name for name in LEARNING if name != "joint"]


def asked(method, task):
    return task.name if GIVEN in method.ways else None


def nats(method, task):
    return method.answers(task.test, asked(method, task)).nats


@pytest.mark.parametrize("name", INCREMENTAL)
def test_a_method_learns_a_task(name, methods, setting, tasks) -> None:
    method = methods[name](setting)
    before = nats(methods["base"](setting), tasks[0]).sum()
    seconds = method.learn(tasks[0])
    least = 1.0 if name == "full" else 0.95  # all weights at once learn at a small rate
    assert nats(method, tasks[0]).sum() < least * before
    assert seconds > 0
    assert method.parameters() > 0
    assert method.bytes() > 0


def test_joint_training_learns_all_tasks_when_the_last_one_comes(methods, setting, tasks) -> None:
    method, bare = methods["joint"](setting), methods["base"](setting)
    for task in tasks[:-1]:
        method.learn(task)
    assert torch.equal(nats(method, tasks[0]), nats(bare, tasks[0]))
    method.learn(tasks[-1])
    for task in tasks:
        assert nats(method, task).sum() < 0.9 * nats(bare, task).sum()


@pytest.mark.parametrize("name", ["lora", "ewc", "replay", "o-lora", "full", "penalty"])
def test_shared_weights_answer_the_first_task_otherwise_after_the_second(
    name, methods, setting, tasks
) -> None:
    method = methods[name](setting)
    method.learn(tasks[0])
    before = nats(method, tasks[0])
    method.learn(tasks[1])
    assert not torch.equal(nats(method, tasks[0]), before)


@pytest.mark.parametrize("kind", [Niwfctl, LoraPerTask])
def test_weights_of_their_own_answer_the_first_task_with_equal_bits(kind, setting, tasks) -> None:
    method = kind(setting)
    method.learn(tasks[0])
    before = nats(method, tasks[0])
    for task in tasks[1:]:
        method.learn(task)
    assert torch.equal(nats(method, tasks[0]), before)


def test_every_method_that_starts_as_one_lora_learns_the_first_task_alike(
    methods, setting, tasks
) -> None:
    found = []
    for name in ("lora", "per-task", "ewc", "replay", "o-lora"):
        method = methods[name](setting)
        method.learn(tasks[0])
        found.append(nats(method, tasks[0]))
    assert all(torch.equal(one, found[0]) for one in found)


def test_ewc_and_replay_change_the_second_training(methods, setting, tasks) -> None:
    found = {}
    for name in ("lora", "ewc", "replay"):
        method = methods[name](setting)
        for task in tasks[:2]:
            method.learn(task)
        found[name] = nats(method, tasks[0])
    assert not torch.equal(found["ewc"], found["lora"])
    assert not torch.equal(found["replay"], found["lora"])


def test_a_strong_ewc_keeps_the_first_task_and_learns_less_of_the_second(setting, tasks) -> None:
    found = {}
    for strength in (0.0, 1e9):
        method = ElasticLora(setting, strength)
        method.learn(tasks[0])
        before = nats(method, tasks[0])
        method.learn(tasks[1])
        found[strength] = (
            float((nats(method, tasks[0]) - before).abs().sum()),
            float(nats(method, tasks[1]).sum()),
        )
    assert found[1e9][0] < found[0.0][0]
    assert found[1e9][1] > found[0.0][1]


def test_o_lora_makes_new_subspaces_more_orthogonal(setting, tasks) -> None:
    overlap = {}
    for strength in (0.0, 10.0):
        method = OrthogonalLora(setting, strength)
        for task in tasks[:2]:
            method.learn(task)
        overlap[strength] = method.overlap().item()
    assert overlap[10.0] < 0.9 * overlap[0.0]


@pytest.mark.parametrize("name", INCREMENTAL)
def test_a_method_made_anew_goes_on_where_another_stopped(name, methods, setting, tasks) -> None:
    first = methods[name](setting)
    first.learn(tasks[0])
    state = {key: value.clone() for key, value in first.state().items()}
    second = methods[name](setting)
    second.restore(state)
    assert torch.equal(nats(second, tasks[0]), nats(first, tasks[0]))
    for method in (first, second):
        method.learn(tasks[1])
    for task in tasks[:2]:
        assert torch.equal(nats(second, task), nats(first, task))
    assert second.bytes() == first.bytes()
    assert second.report(tasks[:2]) == first.report(tasks[:2])


@pytest.mark.parametrize("name", ["niwfctl", "per-task", "any-ssr"])
def test_routers_tell_tasks_of_different_words_apart(name, methods, setting, tasks) -> None:
    method = methods[name](setting)
    for task in tasks[:2]:
        method.learn(task)
    for task in tasks[:2]:
        owners = method.owners(task.test)
        assert sum(owner == task.name for owner in owners) >= 0.8 * len(owners)


def test_without_a_task_id_a_row_is_answered_as_its_owner_would(methods, setting, tasks) -> None:
    for name in ("niwfctl", "per-task"):
        method = methods[name](setting)
        for task in tasks[:2]:
            method.learn(task)
        rows = [*tasks[0].test, *tasks[1].test]
        routed = method.answers(rows, None).nats
        for index, owner in enumerate(method.owners(rows)):
            alone = method.answers([rows[index]], owner or "nobody").nats
            assert torch.allclose(routed[index], alone[0], rtol=0.02)


def test_the_rows_of_a_step_are_those_of_niwfctls_trainer(setting, tasks) -> None:
    method = Niwfctl(setting)
    trainer = Trainer(
        method.adapter, method.skip, method._run(tasks[0]), tasks[0].training, tasks[0].validation
    )
    count = len(tasks[0].training)
    for step in range(25):  # beyond the first epoch
        assert sorted(order(step, count, setting.options)) == sorted(trainer.rows_of(step))
    assert len(seen(tasks[0].training, setting.options)) == count


def test_every_method_trains_about_as_many_parameters_as_niwfctl(setting, tasks) -> None:
    setting = replace(setting, options=setting.options.model_copy(update={"rank": 16}))
    ours = Niwfctl(setting)
    trainer = Trainer(
        ours.adapter, ours.skip, ours._run(tasks[0]), tasks[0].training, tasks[0].validation
    )
    assert ours.parameters() == sum(p.numel() for p in trainer.parameters())
    assert abs(SequentialLora(setting).parameters() / ours.parameters() - 1) < 0.05


def test_exact_answers_are_those_that_greedy_decoding_gives(methods, setting, tasks) -> None:
    options = setting.options.model_copy(update={"steps": 60, "lr": 0.05})
    method = methods["full"](replace(setting, options=options))
    method.learn(tasks[0])
    whole = tasks[0].test  # of these the first words can be learned, the number cannot
    rows = [
        *whole,
        *(Tokens(row.prompt, row.answer[:length]) for row in whole for length in (3, 8)),
    ]
    exact = method.answers(rows, None).exact.tolist()
    for row, right in zip(rows, exact, strict=True):
        decoded = method.model.generate(
            torch.tensor([row.prompt]),
            attention_mask=torch.ones(1, len(row.prompt), dtype=torch.long),
            generation_config=GenerationConfig(
                max_new_tokens=len(row.answer), do_sample=False, pad_token_id=0
            ),
        )[0, len(row.prompt) :].tolist()
        assert (decoded == row.answer) == right
    assert 0 < sum(exact) < len(exact)


def test_the_ridge_router_does_not_depend_on_the_order_of_tasks() -> None:
    random = torch.Generator().manual_seed(0)
    states = [torch.randn(30, 16, generator=random) + shift for shift in (0, 2, -2)]
    routers = [RidgeRouter(16, 64, torch.Generator().manual_seed(1)) for _ in range(2)]
    for index in range(3):
        routers[0].learn(states[index])
        routers[1].learn(states[2 - index])
    everything = torch.cat(states)
    assert torch.equal(routers[0].route(everything), 2 - routers[1].route(everything))
    assert (routers[0].route(states[1]) == 1).double().mean() > 0.9


def drift_at_anchors(setting, tasks, lock: float) -> dict[str, float]:
    method = PenaltyLock(setting, Strengths(lock=lock))
    for task in tasks[:2]:
        method.learn(task)
    return method.report(tasks[:2])["drift"]


def test_the_penalty_keeps_gates_at_anchors_but_not_the_weights(setting, tasks) -> None:
    locked, free = (drift_at_anchors(setting, tasks, lock) for lock in (100.0, 0.0))
    first = tasks[0].name
    assert locked[first]["gates_at_anchors"] < 0.5 * free[first]["gates_at_anchors"]
    assert locked[first]["weights_at_anchors"] > 0.01
    assert set(locked[tasks[1].name].values()) >= {0.0}


def test_what_is_just_committed_has_not_drifted(setting, tasks) -> None:
    for kind in (Niwfctl, PenaltyLock):
        method = kind(setting)
        method.learn(tasks[0])
        found = method.report(tasks[:1])["drift"][tasks[0].name]
        inside = {found.pop("inside_then"), found.pop("inside_now")}
        assert len(inside) == 1
        assert set(found.values()) == {0.0}


def test_niwfctl_has_not_drifted_after_later_commits(setting, tasks) -> None:
    method = Niwfctl(setting)
    for task in tasks:
        method.learn(task)
    found = method.report(tasks)["drift"][tasks[0].name]
    moving = [value for key, value in found.items() if not key.startswith("inside")]
    assert set(moving) == {0.0}
    assert found["inside_now"] == found["inside_then"]
