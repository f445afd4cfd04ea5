"""LoRAs whose weights are more than their configs name: PEFT would leave the rest out."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists

from niwfctl.errors import FormatError
from niwfctl.repository import Repository
from niwfctl.repository import targets as targets_module
from niwfctl.repository.adapters import AdapterConfig
from niwfctl.repository.targets import require_named

MODULES = [
    f"model.{path}.{layer}.{linear}"
    for path in ("layers", "decoder.layers")
    for layer in (1, 2, 12)
    for linear in ("self_attn.q_proj", "mlp.experts.3.up_proj")
]
NAMES = ["q_proj", "self_attn.q_proj", "proj", "up_proj", "model.layers.1.self_attn.q_proj", ""]
EXPRESSIONS = ["all-linear", "q_proj", r".*(q|up)_proj", r".*\.layers\.[12]\..*", r"(?:.*\.)*\w+j"]
SOME = st.lists(st.sampled_from(NAMES), unique=True)


@settings(max_examples=60, deadline=None)
@given(
    targets=SOME | st.sampled_from(EXPRESSIONS),
    excluded=st.none() | SOME | st.sampled_from(EXPRESSIONS[1:]),
    layers=st.none() | st.integers(1, 3) | st.lists(st.sampled_from([0, 1, 3, 12]), unique=True),
    lists=st.sampled_from([None, "", [], "layers", ["h", "decoder.layers"], "blocks"]),
)
def test_a_module_is_taken_exactly_if_peft_takes_it(
    targets: list[str] | str, excluded: list[str] | str | None, layers: object, lists: object
) -> None:
    if isinstance(targets, str):
        layers = lists = None  # PEFT takes neither with it
    entries = {"target_modules": targets, "exclude_modules": excluded}
    if layers not in (None, []):  # nor a pattern without layers
        entries |= {"layers_to_transform": layers, "layers_pattern": lists}
    ours = AdapterConfig(peft_type="LORA", r=1, lora_alpha=1, **entries)
    if targets == "all-linear":  # PEFT lists the linears of the model itself
        entries["target_modules"] = MODULES
    theirs = LoraConfig(**entries)
    for module in MODULES:
        if check_target_module_exists(theirs, module):
            require_named(Path("lora"), ours, [module])
        else:
            with pytest.raises(FormatError, match="PEFT would leave the change out"):
                require_named(Path("lora"), ours, [module])


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, r"changes model\.layers\.1\.mlp\.down_proj"),
        ({"target_modules": r".*_attn\..*"}, r"changes model\.layers\.1\.mlp\.down_proj"),
        ({"layers_to_transform": [3]}, r"changes model\.layers\.1\."),
        ({"exclude_modules": r".*\.2\..*"}, r"changes model\.layers\.2\."),
        ({"exclude_modules": ["v_proj"]}, r"changes model\.layers\.1\.self_attn\.v_proj"),
        ({"target_modules": None}, "names no target_modules"),
        ({"target_modules": "("}, "Python cannot match"),
        ({"layers_pattern": [r"(\w+\w+)+!"]}, "has the pattern"),
        ({"target_modules": 3}, "is wrong: target_modules"),
    ],
)
def test_a_lora_that_changes_more_than_its_config_names_is_refused(
    fresh: Repository,
    copy: Callable[..., Path],
    data: Path,
    entries: dict[str, object],
    words: str,
) -> None:
    with pytest.raises(FormatError, match=words):
        fresh.import_adapter(copy(**entries), "apple", [data])
    assert not fresh.atlas()


def test_an_expression_that_takes_forever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets_module, "_SECONDS", 1)
    config = AdapterConfig(peft_type="LORA", r=1, lora_alpha=1, target_modules=r"((\w|\.|l)+)+!")
    with pytest.raises(FormatError, match="Python cannot match"):
        require_named(Path("lora"), config, MODULES)
