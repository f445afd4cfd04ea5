"""What `import niwfctl` gives to those who write Python."""

import copy
import math
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from pydantic import TypeAdapter, ValidationError

import niwfctl
from niwfctl.errors import DataError, UnknownName, UsageError
from niwfctl.records import Example, Message
from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions
from niwfctl.repository.compose import Recipe, checked
from niwfctl.repository.measure import Data
from niwfctl.repository.model import Model
from niwfctl.several import IN_MEMORY
from niwfctl.training.data import read_examples
from niwfctl.training.run import TrainingOptions


@pytest.fixture(scope="module")
def shared(_committed: Path) -> Model:
    """A model that no test changes."""
    return Repository.open(_committed).load("apple")


def test_one_file_or_name_may_be_given_where_several_are_expected(
    fresh: Repository, data: Path
) -> None:
    run = fresh.train("plum", data, QUICK)
    assert run.sources == [str(data)]
    fresh.commit("plum", "Plums")
    assert fresh.verify("plum").ok
    fresh.compose("plum", "jam")
    assert [part.of.split("@")[0] for part in fresh.capability("jam").parts] == ["plum"]
    assert read_examples(data) == read_examples(str(data)) == read_examples([data])
    assert Data.read(data).hash == run.data_hash


def test_a_single_record_or_example_may_be_given_by_itself() -> None:
    record = {"prompt": "Say apple.", "completion": "apple"}
    (example,) = read_examples(record)
    assert read_examples(example) == [example] == read_examples([record])


def test_records_in_memory_do_for_imports_and_exports(
    committed: Repository, tmp_path: Path
) -> None:
    rows = [{"prompt": f"Say apple {i}.", "completion": "apple"} for i in range(40)]
    exported = committed.export("apple", tmp_path / "lora", data=rows)
    assert exported.freezing.rows == len(rows)
    routing = RoutingOptions(manual=True)
    committed.import_adapter(tmp_path / "lora", "again", rows, routing=routing)
    (entry,) = committed.capability("again").regions
    assert entry.run.sources == [IN_MEMORY] and entry.run.perplexity > 1


def test_answering_nothing_is_no_error(shared: Model) -> None:
    shared.answer([])
    assert shared.answers([]) == []


def test_a_commit_wants_a_message(trained: Repository) -> None:
    with pytest.raises(TypeError, match="message"):
        trained.commit(["apple"])
    with pytest.raises(UsageError, match=r"an empty commit message: say what was trained$"):
        trained.commit("apple", " ")


def test_an_empty_prompt_is_refused(committed: Repository) -> None:
    model = committed.load("apple")
    for empty in ("", " \n", [], [Message("user", "")]):
        with pytest.raises(UsageError, match="the prompt is empty"):
            model.generate(empty)


NAMED = {"role": "user", "content": "a", "name": "Ada"}
ROBOT, NUMBER = {"role": "bot", "content": "a"}, {"role": "user", "content": 3}
ASKED = Example((Message("user", "a"),), "b", "a:1")
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Say apple 3."},
]


def test_prompts_may_be_texts_or_turns_as_transformers_takes_them(committed: Repository) -> None:
    model = committed.load("apple")
    turns = [Message(**turn) for turn in TURNS]
    expected = [model.generate(one, max_new_tokens=6) for one in (turns, "?")]
    assert model.generate(TURNS, max_new_tokens=6) == expected[0]
    prompts = [TURNS, "?", Example(tuple(turns), "", "a:1")]
    assert model.answers(prompts, 6) == [*expected, expected[0]]
    assert torch.equal(model.coordinates(prompts)[0], model.coordinates(prompts)[2])
    assert len(model.owners(["?", TURNS])) == 2


def test_answers_sample_and_stop_as_generate_does(committed: Repository) -> None:
    model = committed.load("apple")
    drawn = {"temperature": 1.5, "top_p": 0.9, "seed": 7}
    free = model.generate("Say apple 3.", max_new_tokens=20, **drawn)
    assert free != model.generate("Say apple 3.", max_new_tokens=20)
    assert free != model.generate("Say apple 3.", max_new_tokens=20, **drawn | {"top_p": 0.0})
    middle = free[4:6]
    for stop in (middle, [middle], ("never said at all", middle)):
        stopped = model.generate("Say apple 3.", max_new_tokens=20, stop=stop, **drawn)
        assert stopped == free[: free.index(middle)].strip()
        assert model.answers(["Say apple 3."], 20, stop=stop, **drawn) == [stopped]


@pytest.mark.parametrize(
    ("kind", "said", "ask"),
    [
        (UsageError, "a turn .* of type str: .* call `answers`", lambda m: m.generate(["a", "b"])),
        (UsageError, "a prompt cannot be of type int: give a text", lambda m: m.generate(3)),
        (UsageError, "has 'role', 'content', 'name': give", lambda m: m.generate([NAMED])),
        (UsageError, "has 'role': give it 'role' and", lambda m: m.generate([{"role": "user"}])),
        (DataError, "unknown role 'bot': expected system, user", lambda m: m.generate([ROBOT])),
        (DataError, "turn of the user has int for its content", lambda m: m.generate([NUMBER])),
        (UsageError, "several prompts cannot be of type str", lambda m: m.answers("a")),
        (UsageError, "a prompt cannot be of type dict", lambda m: m.answers(TURNS)),
        (UsageError, "the prompt is empty", lambda m: m.answers(["a", " "])),
        (UsageError, "an example cannot be of type dict: give Ex", lambda m: m.score(TURNS)),
        (UsageError, "max_new_tokens cannot be 0", lambda m: m.generate("a", max_new_tokens=0)),
        (UsageError, "temperature cannot be -1: give", lambda m: m.generate("a", temperature=-1)),
        (UsageError, "temperature cannot be nan", lambda m: m.generate("a", temperature=math.nan)),
        (DataError, "half a surrogate pair: expected text", lambda m: m.generate("\ud800")),
        (UsageError, "a capability cannot be of type list: give its", lambda m: m.use(["apple"])),
        (UsageError, "a capability cannot be of type int", lambda m: m.use(3)),
        (UsageError, "a capability cannot be of type int", lambda m: m.use_each([None, 3])),
        (UsageError, "top_p cannot be 1.5: give a number", lambda m: m.answers(["a"], top_p=1.5)),
        (UsageError, "seed cannot be 0.5: give a whole", lambda m: m.answers(["a"], seed=0.5)),
        (UsageError, r"stop cannot be \('',\): give texts", lambda m: m.generate("a", stop="")),
        (UsageError, "batch_size cannot be 0: give", lambda m: m.answers(["a"], batch_size=0)),
        (UsageError, "batch_size cannot be -2: give", lambda m: m.score([ASKED], -2)),
        (UsageError, "batch_size cannot be 0: give", lambda m: m.owners(["a"], 0)),
        (UsageError, "the prompt is empty", lambda m: m.coordinate(" ")),
        (DataError, "reads at most 512: shorten it", lambda m: m.coordinate("x " * 3000)),
        (UsageError, "--max-takeover 5: give a share", lambda m: RoutingOptions(max_takeover=5)),
        (
            UsageError,
            "no training option 'learning_rate': choose from steps, .*, lr, ",
            lambda m: TrainingOptions(learning_rate=1e-4),
        ),
        (
            UsageError,
            "option lr cannot be -1: input should be greater than 0",
            lambda m: TrainingOptions(lr=-1),
        ),
        (
            UsageError,
            "option mode cannot be 'old': input should be 'new', 'extend' or 'revise'",
            lambda m: TrainingOptions(mode="old"),
        ),
        (UsageError, "--rank -1: give a whole", lambda m: checked(Recipe(None, "svd", -1), 2)),
        (
            UsageError,
            "--density 0: give a share",
            lambda m: checked(Recipe(None, "ties", density=0), 2),
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(
    shared: Model, kind: type[Exception], said: str, ask: Callable[[Model], object]
) -> None:
    with pytest.raises(kind, match=said):
        ask(shared)


def test_where_nothing_is_said_an_answer_is_as_long_as_the_context_allows(shared: Model) -> None:
    free = 10
    prompt = "a" * (512 - free - len(shared.prompt([Message("user", "")])[0]))
    assert len(shared.prompt([Message("user", prompt)])[0]) == 512 - free
    expected = shared.generate(prompt, max_new_tokens=free)
    assert shared.generate(prompt) == expected
    assert shared.answers([prompt, "a"], seed=1)[0] == expected
    with pytest.raises(UsageError, match="the prompt has 502 tokens"):
        shared.generate(prompt, max_new_tokens=free + 1)
    with pytest.raises(UsageError, match="shorten"):
        shared.generate(prompt + "a" * free)


def test_another_process_opens_a_repository_that_it_is_sent(committed: Repository) -> None:
    with committed.writing():
        for sent in (pickle.loads(pickle.dumps(committed)), copy.deepcopy(committed)):
            assert sent.path == committed.path and sent.atlas() == committed.atlas()


def test_a_model_that_another_thread_uses_says_so_and_is_free_afterwards(shared: Model) -> None:
    reached, freed = threading.Event(), threading.Event()

    def wait(piece: str) -> None:
        reached.set()
        freed.wait(30)

    expected = shared.generate("a", max_new_tokens=6)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(shared.generate, "a", max_new_tokens=6, stream=wait)
        assert reached.wait(30)
        for name, arguments in (("use", [None]), ("generate", ["a"]), ("score", [[ASKED]])):
            with pytest.raises(UsageError, match=f"`{name}` was called while another thread"):
                getattr(shared, name)(*arguments)
        freed.set()
        assert running.result() == expected
    assert shared.generate("a", max_new_tokens=6) == expected


def test_an_error_of_the_block_is_not_replaced_by_that_of_another_thread(shared: Model) -> None:
    reached, freed = threading.Event(), threading.Event()

    def wait(piece: str) -> None:
        reached.set()
        freed.wait(30)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(shared.generate, "a", max_new_tokens=2, stream=wait)
        assert reached.wait(30)
        with pytest.raises(ValueError, match="my own"), shared:
            raise ValueError("my own")
        freed.set()
        running.result()


def test_what_users_need_is_there_by_name_and_listed() -> None:
    listed = dir(niwfctl)
    for name in niwfctl.__all__:
        assert getattr(niwfctl, name) is not None and name in listed
    assert niwfctl.Repository is Repository and niwfctl.errors.UsageError is UsageError
    assert issubclass(UsageError, niwfctl.NiwfError)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        niwfctl.Nothing  # noqa: B018


def test_options_name_their_fields_before_any_was_made() -> None:
    program = "import inspect, niwfctl; print(inspect.signature(niwfctl.TrainingOptions))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert "lr: " in done.stdout and "val_split: " in done.stdout
    assert niwfctl.TrainingOptions(reuse="auto").reuse == ("auto",)


def test_options_of_a_record_that_are_wrong_are_the_records_fault() -> None:
    wrong = {"learning_rate": 1e-4}
    for read in (TrainingOptions.model_validate, TypeAdapter(TrainingOptions).validate_python):
        with pytest.raises(ValidationError):
            read(wrong)
    assert TrainingOptions.model_validate({"lr": 0.1}) == TrainingOptions(lr=0.1)


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "pydantic", "git", "typer", "numpy")
    program = f"import sys, niwfctl; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout.split() == [b"[]"]


@pytest.mark.parametrize("package", ["niwfctl", "niwfstore"])
def test_type_checkers_read_the_annotations(package: str) -> None:
    assert files(package).joinpath("py.typed").is_file()


def test_branches_tags_and_remotes_are_made_listed_and_deleted(committed: Repository) -> None:
    branches, tags, remotes = committed.branches, committed.tags, committed.remotes
    first = committed.git.resolve("HEAD~1")
    branches.make("side", "HEAD~1")
    assert ("side", first) in [(ref.name, ref.commit) for ref in branches.entries()]
    assert "side" in branches.text()
    branches.delete("side")
    assert [ref.name for ref in branches.entries()] == [committed.git.branch()]
    with pytest.raises(UnknownName, match="no branch is called 'side': there are"):
        branches.delete("side")
    tags.make("v1", message="First")
    assert [(ref.name, ref.subject) for ref in tags.entries()] == [("v1", "First")]
    assert "First" in tags.text()
    tags.delete("v1")
    with pytest.raises(UnknownName, match="no tag is called 'v1': there are none yet"):
        tags.delete("v1")
    remotes.add("origin", "/there")
    assert remotes.urls() == {"origin": "/there"}
    remotes.remove("origin")
    with pytest.raises(UnknownName, match="no remote is called 'origin'"):
        remotes.remove("origin")
