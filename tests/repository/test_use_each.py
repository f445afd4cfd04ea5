"""Rows that each have a capability of their own."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import QUICK, crowd
from tiny import write_data

from niwfctl.backbone.generation import AnswerOptions
from niwfctl.errors import UsageError
from niwfctl.records import Example, Message
from niwfctl.repository import Repository
from niwfctl.repository.model import AUTO, Model

LEARNT = QUICK.model_copy(update={"steps": 15, "lr": 0.05})
PROMPTS = ["Say apple 3, and then say it once more.", "Plum?", "Say pear 12.", "And now?"]
ROWS = [Example((Message("user", one),), "apple pear", one) for one in PROMPTS]
NAMES = ["apple", None, "pear", "apple"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> Model:
    """A backbone with the capabilities `apple` and `pear`, which answer differently."""
    folder = tmp_path_factory.mktemp("each")
    repository = Repository.init(folder / "field", model=str(backbone), dim=8)
    crowd(repository)
    for word in ("apple", "pear"):
        repository.train(word, write_data(folder / f"{word}.jsonl", word=word), LEARNT)
        repository.commit(word, word)
    return repository.load()


def alone(model: Model, row: Example, name: str | None) -> tuple[float, str]:
    """(perplexity, answer) of a row under a capability."""
    model.use(name)
    return model.score([row]).perplexity, model.answers([row], 8)[0]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_a_row_is_taken_under_its_own_capability_whatever_the_batches(
    model: Model, batch_size: int
) -> None:
    expected = [alone(model, row, name) for row, name in zip(ROWS, NAMES, strict=True)]
    assert len({alone(model, ROWS[0], name) for name in NAMES}) == 3  # or there is nothing to see
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        rows = [ROWS[place] for place in order]
        model.use_each([NAMES[place] for place in order])
        assert model.answers(rows, 8, batch_size) == [expected[place][1] for place in order]
        losses = torch.tensor([expected[place][0] for place in order]).log()
        tokens = torch.tensor([len(row.answer) for row in model.encode(rows)])
        mean = ((losses * tokens).sum() / tokens.sum()).exp().item()
        assert model.score(rows, batch_size).perplexity == pytest.approx(mean, rel=1e-3)


def test_the_owner_of_a_row_answers_it_whatever_the_batches(model: Model) -> None:
    owners = model.owners(ROWS)
    expected = [alone(model, row, owner)[1] for row, owner in zip(ROWS, owners, strict=True)]
    model.use_each([AUTO] * len(ROWS))
    assert model.answers(ROWS, 8, 3) == expected


def longer(count: int) -> list[Example]:
    """Rows of very different lengths, so that batches by length differ from those in order."""
    return [
        Example((Message("user", f"Say {'pear ' * (1 + 5 * row % 7)}{row}."),), "apple", f"{row}")
        for row in range(count)
    ]


@pytest.mark.parametrize("ask", [Model.score, partial(Model.answers, max_new_tokens=2)])
def test_routes_name_who_answered_each_prompt_of_a_call_in_their_order(
    model: Model, ask: Callable[..., object]
) -> None:
    rows = longer(11)
    model.route()
    owners = model.owners(rows)
    assert len(set(owners)) > 1  # or there is nothing to see
    ask(model, rows, batch_size=4)
    assert model.routes.names == owners
    model.generate(rows[3].messages, max_new_tokens=1)
    assert model.routes.names == owners[3:4]
    assert model.answers([]) == [] == model.routes.names


@pytest.mark.parametrize("ask", [Model.score, partial(Model.answers, max_new_tokens=2)])
def test_rows_with_a_capability_of_their_own_are_named_by_it(
    model: Model, ask: Callable[..., object]
) -> None:
    rows = longer(11)
    given = [[AUTO, "apple", None, AUTO][row % 4] for row in range(11)]
    owners = model.owners(rows)
    model.use_each(given)
    ask(model, rows, batch_size=3)
    both = zip(given, owners, strict=True)
    assert model.routes.names == [owner if name == AUTO else name for name, owner in both]


def test_rows_routed_by_several_revisions_are_named_by_their_owners_there(model: Model) -> None:
    rows = longer(6)
    names = [[AUTO, f"{AUTO}@HEAD~1", f"{AUTO}@HEAD", "apple"][row % 4] for row in range(6)]
    model.use_each(names)
    model.answers(rows, 1, 4)
    coordinates = model.coordinates(rows)
    revisions = [name.partition("@")[2] or "HEAD" for name in names]
    assert model.routes.names == [
        name if name == "apple" else model.owner(z, revision)
        for name, z, revision in zip(names, coordinates, revisions, strict=True)
    ]


def test_of_a_single_row_any_method_answers(model: Model) -> None:
    expected = alone(model, ROWS[2], "pear")[1]
    model.use_each(["pear"])
    assert model.generate(PROMPTS[2], max_new_tokens=8) == expected
    model.use_each(["pear", "apple"])
    requests = [model.request(row.messages, AnswerOptions(8)) for row in (ROWS[2], ROWS[0])]
    model.answer(requests)
    assert requests[0].text.strip() == expected


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.generate(PROMPTS[0]),
        lambda model: model.answers(ROWS, batch_size=2),
        lambda model: model.score(ROWS, batch_size=2),
        lambda model: model.answer([model.request(ROWS[0].messages, AnswerOptions(8))]),
    ],
    ids=["generate", "answers", "score", "answer"],
)
def test_another_number_of_rows_than_of_capabilities_is_refused(
    model: Model, ask: Callable[[Model], object]
) -> None:
    model.use_each(["apple", "pear"])
    with pytest.raises(UsageError, match=r"given 2 capabilities.* number of rows is (1|4): give"):
        ask(model)
    model.use("apple")
    ask(model)


def test_rows_need_a_list_of_capabilities(model: Model) -> None:
    with pytest.raises(UsageError, match=r"a capability for each row, not 'apple': .* call `use`"):
        model.use_each("apple")
