"""Arguments of the chat template: fixed at `init`, and used wherever it writes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK, crowd
from thinking import AT_WILL, thinking_tokenizer
from tiny import tiny_model, write_data
from transformers import AutoTokenizer
from typer.testing import Result

from niwfctl.backbone.calibration import calibration_prompts
from niwfctl.errors import UsageError
from niwfctl.records import Example, Message
from niwfctl.repository import Repository
from niwfctl.repository.regions import read_coordinates

ASKED = Message("user", "2+2?")
EMPTY = "<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone that thinks unless its template is told not to."""
    folder = tmp_path_factory.mktemp("thinker") / "backbone"
    tiny_model("qwen3", vocab_size=270).save_pretrained(folder)
    thinking_tokenizer(AT_WILL).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def at_once(thinker: Path) -> Path:
    """A repository in which it does not think."""
    path = thinker.parent / "at-once"
    arguments = {"enable_thinking": False}
    crowd(Repository.init(path, model=str(thinker), dim=8, template_args=arguments))
    return path


@pytest.fixture
def repository(at_once: Path, tmp_path: Path) -> Repository:
    return Repository.open(shutil.copytree(at_once, tmp_path / "field"))


def test_what_an_argument_writes_is_part_of_the_prompt_and_not_learned(
    repository: Repository,
) -> None:
    model = repository.load()
    row = model.encoded(Example((ASKED,), "4", "x"))
    decode = model.backbone.tokenizer.decode
    assert decode(row.prompt).endswith(f"<|im_start|>assistant\n{EMPTY}")
    assert decode(row.answer) == "4<|im_end|>"
    assert model.prompt([ASKED])[0] == row.prompt
    assert model.expected([Example((ASKED,), "4", "x")]) == ["4"]


def test_the_coordinate_map_is_fitted_to_prompts_with_the_arguments(
    repository: Repository, thinker: Path, tmp_path: Path
) -> None:
    fitted = read_coordinates(repository)["base.anchors"]
    read = repository.load().coordinates(calibration_prompts()[:8])
    assert (read - fitted[:8]).abs().max() < 0.1 * fitted.std()
    other = Repository.init(tmp_path / "other", model=str(thinker), dim=8)
    assert (read_coordinates(other)["base.anchors"] - fitted).abs().max() > 0.1 * fitted.std()


def test_a_repository_without_arguments_is_written_as_earlier_versions_read_it(
    fresh: Repository, repository: Repository
) -> None:
    plain, own = ((one.path / "niwf.toml").read_text() for one in (fresh, repository))
    assert "format = 3\n" in plain and "template_args" not in plain
    assert "format = 4\n" in own
    assert "[backbone.template_args]\nenable_thinking = false\n" in own


def test_training_running_and_exporting_go_by_the_arguments(
    repository: Repository, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "a.jsonl")
    repository.train("apple", [data], QUICK)
    repository.commit(["apple"], "Apples")
    assert repository.verify(deep=True).ok
    repository.export("apple", tmp_path / "merged", form="merged")
    merged = AutoTokenizer.from_pretrained(tmp_path / "merged")
    turns = [{"role": "user", "content": "2+2?"}]
    text = merged.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text.endswith(EMPTY)
    sidecar = json.loads((tmp_path / "merged" / "niwf.json").read_text())
    assert sidecar["backbone"]["template_args"] == {"enable_thinking": False}


@pytest.mark.parametrize(("template", "differs"), [(AT_WILL, False), ("{{ 1 }}", True)])
def test_a_lora_saved_with_the_backbones_own_template_is_not_warned_of(
    repository: Repository, tmp_path: Path, template: str, differs: bool
) -> None:
    data = write_data(tmp_path / "a.jsonl")
    repository.train("apple", [data], QUICK)
    repository.commit(["apple"], "Apples")
    repository.export("apple", tmp_path / "lora")
    (tmp_path / "lora" / "chat_template.jinja").write_text(template)
    found = repository.import_adapter(tmp_path / "lora", "back", [data])
    assert found.template_differs is differs


def test_capabilities_of_other_arguments_are_not_taken_in(repository: Repository) -> None:
    git, config = repository.git, repository.path / "niwf.toml"
    git.plain("checkout", "--quiet", "-b", "other")
    config.write_text(
        config.read_text().replace("= false\n\n[backbone.wit", "= true\n\n[backbone.wit")
    )
    git.plain("commit", "--quiet", "--all", "-m", "Think")
    git.plain("checkout", "--quiet", "-")
    with pytest.raises(UsageError, match="other has other template_args than this branch"):
        Repository.open(repository.path).merge("other")


def test_arguments_that_somebody_changed_are_found(repository: Repository) -> None:
    file = repository.path / "niwf.toml"
    file.write_text(file.read_text().replace("= false\n\n[backbone.wit", "= true\n\n[backbone.wit"))
    repository.git.plain("commit", "--quiet", "--all", "-m", "Think")
    (failed,) = (one for one in Repository.open(repository.path).verify().checks if not one.ok)
    assert failed.subject == "backbone" and "niwf.toml has another template_args" in failed.detail


def test_init_takes_arguments_of_every_kind_and_tells_them(
    niwfctl: Callable[..., Result], thinker: Path, tmp_path: Path
) -> None:
    telling = shutil.copytree(thinker, tmp_path / "backbone")
    (telling / "chat_template.jinja").write_text(AT_WILL + "{{ a }}{{ b }}{{ c }}{{ d }}")
    given = ["enable_thinking=true", "a=3", "b=0.5", "c=low = quiet", 'd="7"']
    options = [part for one in given for part in ("--template-arg", one)]
    arguments = ("init", tmp_path / "field", "--model", telling, "--dim", 8, *options)
    told = json.loads(niwfctl(*arguments, "--json").stdout)["template_args"]
    assert told == {"enable_thinking": True, "a": 3, "b": 0.5, "c": "low = quiet", "d": "7"}
    pinned = Repository.open(tmp_path / "field").config.backbone.template_args
    assert pinned == told and pinned["enable_thinking"] is True


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["thinking=false"], "takes no argument 'thinking': it takes enable_thinking"),
        (["enable_thinking=" + "9" * 400, "x=1"], "takes no argument 'x'"),
        (["enable_thinking"], "--template-arg enable_thinking is no NAME=VALUE"),
        (["enable_thinking=true", "enable_thinking=false"], "is given twice"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_written(
    niwfctl: Callable[..., Result], thinker: Path, tmp_path: Path, given: list, message: str
) -> None:
    options = [part for one in given for part in ("--template-arg", one)]
    refused = niwfctl("init", tmp_path / "field", "--model", thinker, *options)
    assert refused.exit_code != 0 and message in " ".join(refused.stderr.split())
    assert not (tmp_path / "field").exists()
