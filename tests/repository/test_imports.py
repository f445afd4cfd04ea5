"""LoRAs that PEFT made, as capabilities."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loras import ABOVE_TAP, TOKENS
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny import tiny_model
from transformers import AutoModelForCausalLM
from typer.testing import Result

from niwfctl.backbone.sites import decoder_path, find_sites
from niwfctl.errors import DataError, FormatError, Shadowed, UsageError
from niwfctl.repository import Repository
from niwfctl.repository.adapters import WEIGHTS, read_adapter, read_config
from niwfctl.repository.commit import RoutingOptions
from niwfctl.repository.export import export
from niwfctl.repository.regions import load_region
from niwfctl.training.run import TrainingOptions

EVERYTHING = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def logits_of_peft(
    backbone: Path, folder: Path, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    base = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.bfloat16).to(dtype)
    with torch.no_grad():
        return PeftModel.from_pretrained(base, folder).eval()(TOKENS).logits.float()


def logits_of_ours(
    repository: Repository, name: str | None, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    model = repository.load(name)
    model.backbone.model.to(dtype)
    if name and dtype == torch.float32:
        model.adapter.active.factors = model.adapter.active.factors.for_single_rows()
    with torch.no_grad(), model.adapter.prompts(torch.ones_like(TOKENS, dtype=torch.bool)):
        return model.backbone.model(TOKENS).logits.float()


def test_it_gives_the_logits_that_plain_peft_gives(
    fresh: Repository, backbone: Path, lora: Path, data: Path, tmp_path: Path
) -> None:
    """In float32 within half a percent of what the LoRA changes: its factors are bf16 here.

    In bf16 within 0.06 standard deviations of the logits: both sides round, in another order.
    """
    done = fresh.import_adapter(lora, "apple", [data])
    assert 0.001 < done.adapter.rounding < 0.004
    export(fresh, "apple", "peft", tmp_path / "again", None)
    for dtype in (torch.float32, torch.bfloat16):
        expected = logits_of_peft(backbone, lora, dtype)
        change = (logits_of_ours(fresh, None, dtype) - expected).norm()
        found = logits_of_ours(fresh, "apple", dtype)
        again = logits_of_peft(backbone, tmp_path / "again", dtype)
        if dtype == torch.float32:
            assert max((one - expected).norm() for one in (found, again)) <= 0.005 * change
            assert (found - again).abs().max() <= 1e-5
        else:
            worst = max((one - expected).abs().max() for one in (found, again))
            assert worst <= 0.06 * expected.std() and change > 10


def test_its_record_says_what_it_was_and_what_it_does(
    fresh: Repository, lora: Path, data: Path
) -> None:
    done = fresh.import_adapter(lora, "apple", [data])
    (entry,) = fresh.capability("apple").regions
    run = entry.run
    assert (run.origin, run.steps, run.rows, run.held_out_rows) == ("imported", 0, 32, 8)
    assert (entry.scale, run.options.rank, run.options.bases) == (2.0, 6, 1)
    assert run.perplexity != run.base_perplexity
    assert run.adapter == done.adapter and run.adapter.base_model == "mistral"
    assert run.sources == [data.name]
    assert done.commit == fresh.git.head() and not done.base_differs
    assert not done.template_differs
    assert fresh.verify(deep=True).ok
    region = load_region(fresh, entry)
    far = 100 * torch.randn(50, region.cell.dim)
    assert torch.equal(region.gates(far), torch.ones(50, 3, 1))


def test_the_same_import_makes_the_same_objects(fresh: Repository, lora: Path, data: Path) -> None:
    one = fresh.import_adapter(lora, "one", [data]).capability
    two = fresh.import_adapter(lora, "two", [data]).capability
    assert one.objects == two.objects


def test_undo_takes_it_back(fresh: Repository, lora: Path, data: Path) -> None:
    before = fresh.git.head()
    fresh.import_adapter(lora, "apple", [data])
    fresh.operations.undo()
    assert fresh.git.head() == before and not fresh.atlas()


def test_records_with_an_empty_answer_are_left_out_where_that_is_asked_for(
    fresh: Repository, lora: Path, data: Path, tmp_path: Path
) -> None:
    gappy = tmp_path / "gappy.jsonl"
    gappy.write_text(data.read_text() + '{"prompt": "Say plum.", "completion": null}\n')
    with pytest.raises(DataError, match=r"gappy.jsonl:41 has an empty `completion`.*--skip-empty"):
        fresh.import_adapter(lora, "apple", [gappy])
    options = TrainingOptions(skip_empty=True)
    (entry,) = fresh.import_adapter(lora, "apple", [gappy], options=options).capability.regions
    assert entry.run.empty_records == 1 and entry.run.rows + entry.run.held_out_rows == 40


def test_prompts_give_a_region_and_no_perplexity(
    fresh: Repository, lora: Path, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"Say apple {index}.\n\n" for index in range(20)))
    share = TrainingOptions(val_split=0.05)
    done = fresh.import_adapter(lora, "apple", prompts=[file], options=share)
    (entry,) = done.capability.regions
    assert (entry.run.rows, entry.run.held_out_rows) == (19, 1)
    assert entry.run.perplexity is None and entry.run.base_perplexity is None
    assert fresh.verify(deep=True).ok
    region, z = load_region(fresh, entry), fresh.load().coordinate("Say apple 7.")
    assert (region.occupied - z).abs().amax(1).min() < 0.05  # bf16, in another batch


def test_it_is_routed_as_any_other(committed: Repository, lora: Path, data: Path) -> None:
    config = committed.path / "niwf.toml"
    config.write_text(config.read_text().replace("max_shadow = 1.0", "max_shadow = 0.1"))
    committed.git.plain("commit", "-qam", "Strict")
    with pytest.raises(Shadowed, match="apple owns"):
        committed.import_adapter(lora, "pear", [data])
    assert set(committed.atlas()) == {"apple"}
    (entry,) = committed.import_adapter(
        lora, "pear", [data], routing=RoutingOptions(manual=True)
    ).capability.regions
    assert entry.routing is None


def saved(
    tmp: pytest.TempPathFactory, config: LoraConfig, kind: str = "mistral"
) -> tuple[PeftModel, Path]:
    """A LoRA with random factors, as PEFT loads what it saved."""
    model = get_peft_model(tiny_model(kind), config)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp.mktemp("random")
    model.save_pretrained(folder)
    return PeftModel.from_pretrained(tiny_model(kind), folder), folder


def patterns(most: int) -> st.SearchStrategy[dict[str, int]]:
    """Entries for some modules; PEFT takes the first that fits, and sorts them when it saves."""
    modules = [
        *("q_proj", "mlp.down_proj", "layers.2.self_attn.v_proj", r".*\.3\..*", "^model.*"),
        *(r"[kv]_proj|mlp\.up_proj$", r"layers\.\d+\.(?:self_attn\.o|mlp\.gate)_proj"),
    ]
    some = st.dictionaries(st.sampled_from(modules), st.integers(1, most), max_size=3)
    return some.map(lambda entries: dict(sorted(entries.items())))


@settings(max_examples=10, deadline=None)
@given(
    rank=st.integers(1, 9),
    alpha=st.integers(1, 40),
    ranks=patterns(12),
    alphas=patterns(60),
    targets=st.lists(st.sampled_from(EVERYTHING), min_size=1, unique=True),
    stabilized=st.booleans(),
)
def test_any_mixture_of_ranks_and_alphas_gives_the_change_of_weights_that_peft_computes(
    tmp_path_factory: pytest.TempPathFactory,
    rank: int,
    alpha: int,
    ranks: dict[str, int],
    alphas: dict[str, int],
    targets: list[str],
    stabilized: bool,
) -> None:
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=targets,
        layers_to_transform=ABOVE_TAP,
        rank_pattern=ranks,
        alpha_pattern=alphas,
        use_rslora=stabilized,
    )
    model, folder = saved(tmp_path_factory, config)
    sites = find_sites(tiny_model(), 1)
    adapter = read_adapter(folder, read_config(folder), "model", sites)
    layers = model.get_base_model().model.layers
    for site in sites:
        ours = adapter.scale * (
            adapter.basis.up[site.name].float() @ adapter.basis.down[site.name].float()
        )
        module = layers[site.layer].get_submodule(site.module)
        if hasattr(module, "get_delta_weight"):
            theirs = module.get_delta_weight("default").detach()
            assert (ours - theirs).norm() <= 0.005 * theirs.norm()  # bf16, in A and in B
        else:
            assert not ours.any()


def test_factors_that_are_bf16_already_lose_nothing(
    copy: Callable[..., Path], backbone: Path
) -> None:
    def round_all(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {key: tensor.to(torch.bfloat16) for key, tensor in tensors.items()}

    folder = copy(round_all, alpha_pattern={"v_proj": 12})  # then one scale is right for all
    sites = find_sites(AutoModelForCausalLM.from_pretrained(backbone), 1)
    adapter = read_adapter(folder, read_config(folder), "model", sites)
    assert adapter.rounding == 0.0
    tensors = load_file(folder / WEIGHTS)
    key = "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight"
    assert torch.equal(adapter.basis.down["layers.2.self_attn.q_proj"][:4], tensors[key])


def test_the_rounding_it_reports_is_that_of_the_whole_change(
    copy: Callable[..., Path], backbone: Path
) -> None:
    folder = copy(lambda tensors: tensors.update({k: t.half() for k, t in tensors.items()}))
    sites = find_sites(AutoModelForCausalLM.from_pretrained(backbone), 1)
    config = read_config(folder)
    adapter = read_adapter(folder, config, "model", sites)
    tensors = load_file(folder / WEIGHTS)
    lost = whole = 0.0
    for site in sites:
        key = f"base_model.model.model.{site.name}.lora_"
        if f"{key}A.weight" not in tensors:
            continue
        down, up = (tensors[f"{key}{which}.weight"].double() for which in "AB")
        true = config.scale(f"model.{site.name}") * up @ down
        ours = adapter.scale * (
            adapter.basis.up[site.name].double() @ adapter.basis.down[site.name].double()
        )
        lost, whole = lost + (ours - true).square().sum(), whole + true.square().sum()
    assert adapter.rounding == pytest.approx(float((lost / whole).sqrt()), rel=1e-3)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("chat_template.jinja", "{{ messages }}"),
        ("tokenizer_config.json", '{"chat_template": "{{ messages }}"}'),
    ],
)
def test_another_backbone_and_another_chat_template_are_warnings(
    niwfctl: Callable[..., Result],
    fresh: Repository,
    copy: Callable[..., Path],
    data: Path,
    file: str,
    text: str,
) -> None:
    folder = copy(base_model_name_or_path="someone/else-7B")
    (folder / file).write_text(text)
    arguments = ["import", folder, "--name", "apple", "--data", data, "--manual", "--json"]
    done = niwfctl("-C", fresh.path, *arguments)
    assert done.exit_code == 0, done.output
    assert "warning:" in done.stderr and "someone/else-7B" in done.stderr
    assert "chat template" in done.stderr
    answer = json.loads(done.stdout)
    assert answer["base_differs"] and answer["template_differs"]
    assert answer["capability"]["regions"][0]["routing"] is None
    shown = niwfctl("-C", fresh.path, "show", "apple").stdout
    assert "imported from a LoRA" in shown and "someone/else-7B" in shown


def test_it_works_on_a_backbone_in_4_bits(
    backbone: Path, lora: Path, data: Path, tmp_path: Path
) -> None:
    repository = Repository.init(tmp_path / "nf4", model=str(backbone), quant="nf4", dim=8)
    repository.import_adapter(lora, "apple", [data])
    assert repository.verify(deep=True).ok


def renamed(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for key in list(tensors):
            if old in key:
                tensors[key.replace(old, new)] = tensors.pop(key)

    return change


def without(part: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: [tensors.pop(key) for key in list(tensors) if part in key]


def nothing(tensors: dict[str, torch.Tensor]) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "entries", "words"),
    [
        (renamed("layers.2.", "layers.0."), {}, "adapts layer 0, .* layers_to_transform from 1"),
        (renamed("model.layers.1.mlp.down_proj", "lm_head"), {}, "adapts lm_head"),
        (renamed("layers.3.", "layers.4."), {}, r"adapts model\.layers\.4\.mlp\.down_proj"),
        (renamed("q_proj", "qkv"), {}, r"adapts model\.layers\.1\.self_attn\.qkv"),
        (renamed("lora_A", "lora_magnitude"), {}, "lora_magnitude.* not a LoRA factor"),
        (without("lora_B"), {}, "only one of A and B"),
        (without("lora"), {}, "no LoRA factors"),
        (lambda t: t.update({k: v.double() for k, v in t.items()}), {}, "float64"),
        (lambda t: t.update({k: v * torch.nan for k, v in t.items()}), {}, "finite"),
        (
            lambda t: t.update({k: v[:, :3].contiguous() for k, v in t.items()}),
            {},
            "shape .* another backbone",
        ),
        (nothing, {"r": 5}, r"shape \[4, .*expected \[5, .*belongs to other weights"),
        (nothing, {"r": 0}, "r: Input should be greater"),
        (nothing, {"lora_alpha": 0}, "lora_alpha"),
        (nothing, {"r": None}, "wrong: r"),
        (nothing, {"peft_type": "IA3"}, "type IA3"),
        (nothing, {"bias": "lora_only"}, "bias"),
        (nothing, {"use_dora": True}, "use_dora"),
        (nothing, {"modules_to_save": ["lm_head"]}, "modules_to_save"),
        (nothing, {"a_variant_of_tomorrow": {"x": 1}}, "a_variant_of_tomorrow"),
        (nothing, {"init_lora_weights": "pissa"}, "pissa"),
        (renamed("layers.2.", "layers.²."), {}, r"adapts model\.layers\.²"),
        (renamed("layers.2.", f"layers.{'2' * 5000}."), {}, r"adapts model\.layers\.222"),
        (nothing, {"rank_pattern": {"(": 3}}, "pattern"),
        (nothing, {"rank_pattern": {"[z-a]": 3}}, "pattern"),
        (nothing, {"rank_pattern": {r"(\w+\w+)+!": 3}}, "expected names"),
        (nothing, {"rank_pattern": {"(l|l)(a|a)(y|y)": 3}}, "expected names"),
        (nothing, {"alpha_pattern": {".*.*.*.*!": 3}}, "at most 3"),
        (nothing, {"alpha_pattern": {"q_proj": -1}}, "pattern"),
        (
            nothing,
            {"rank_pattern": {rf"\w*\w*\w*x{i}": 2 for i in range(33)}},
            "at most 4096 and 32",
        ),
        (nothing, {"rank_pattern": {f"x{i}": 2 for i in range(4097)}}, "at most 4096 and 32"),
        (nothing, {"rank_pattern": {"|".join("x" * 501): 2}}, "expected names"),
    ],
)
def test_what_cannot_be_imported_is_refused_by_name(
    fresh: Repository,
    copy: Callable[..., Path],
    data: Path,
    change: Callable[[dict[str, torch.Tensor]], None],
    entries: dict[str, object],
    words: str,
) -> None:
    folder = copy(change, **entries)
    with pytest.raises(FormatError, match=words):
        fresh.import_adapter(folder, "apple", [data])
    assert not fresh.atlas()


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_a_lora_of_embeddings_or_of_the_output_layer_is_refused_as_one(
    tmp_path_factory: pytest.TempPathFactory, module: str
) -> None:
    config = LoraConfig(target_modules=rf".*[123].*q_proj|(?:.*\.)?{module}")
    _, folder = saved(tmp_path_factory, config)
    words = rf"adapts (model\.)?{module}, .* without that in target_modules"
    with pytest.raises(FormatError, match=words):
        read_adapter(folder, read_config(folder), "model", find_sites(tiny_model(), 1))


def test_layers_below_the_tap_are_refused_with_the_tap_that_takes_them(
    backbone: Path, lora: Path
) -> None:
    sites = find_sites(AutoModelForCausalLM.from_pretrained(backbone), 3)
    with pytest.raises(FormatError, match=r"adapts layers 1 to 2, .* --tap-layer 1"):
        read_adapter(lora, read_config(lora), "model", sites)


@pytest.mark.parametrize(("kind", "tap"), [("mistral", 1), ("gpt_neox", 2)])
def test_the_advice_for_a_lora_on_all_layers_makes_one_that_can_be_imported(
    tmp_path_factory: pytest.TempPathFactory, kind: str, tap: int
) -> None:
    sites, decoder = find_sites(tiny_model(kind), tap), decoder_path(tiny_model(kind))
    _, folder = saved(tmp_path_factory, LoraConfig(target_modules="all-linear"), kind)
    with pytest.raises(FormatError, match=r"layer 0, .* exclude_modules=r'") as refused:
        read_adapter(folder, read_config(folder), decoder, sites)
    advice = re.search("exclude_modules=r'(.*?)'", str(refused.value))[1]
    config = LoraConfig(target_modules="all-linear", exclude_modules=advice)
    _, folder = saved(tmp_path_factory, config, kind)
    basis = read_adapter(folder, read_config(folder), decoder, sites).basis
    assert all(basis.up[site.name].any() for site in sites)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("adapter_config.json", None, "no adapter_config.json"),
        ("adapter_config.json", b"{", "not valid JSON"),
        ("adapter_config.json", b"[" * 100_000, "not valid JSON"),
        ("adapter_config.json", b"\xff", "not valid JSON"),
        ("adapter_config.json", b"[]", "wrong: Input should be"),
        (WEIGHTS, None, f"no {WEIGHTS}"),
        (WEIGHTS, b"", "not readable safetensors"),
        (WEIGHTS, b"\x00" * 100, "not readable safetensors"),
    ],
)
def test_a_damaged_directory_is_refused(
    fresh: Repository,
    copy: Callable[..., Path],
    data: Path,
    file: str,
    content: bytes | None,
    words: str,
) -> None:
    folder = copy()
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    with pytest.raises(FormatError, match=words):
        fresh.import_adapter(folder, "apple", [data])


def test_a_pickle_is_never_opened(fresh: Repository, copy: Callable[..., Path], data: Path) -> None:
    folder = copy()
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(FormatError, match="pickle"):
        fresh.import_adapter(folder, "apple", [data])


def test_a_name_that_is_taken_is_refused(trained: Repository, lora: Path, data: Path) -> None:
    with pytest.raises(UsageError, match="uncommitted training"):
        trained.import_adapter(lora, "apple", [data])
    trained.commit(["apple"], "Apples")
    with pytest.raises(UsageError, match="is committed"):
        trained.import_adapter(lora, "apple", [data])
