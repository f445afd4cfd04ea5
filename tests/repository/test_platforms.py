"""What logits depend on is recorded with them, and decides how `verify --deep` compares them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from conftest import QUICK
from safetensors.torch import load_file, save_file
from tiny import NF4, save_quantized

from niwfctl.backbone.adapter import ActiveField
from niwfctl.backbone.cache import IDENTITY
from niwfctl.backbone.identity import files_identity
from niwfctl.backbone.platform import (
    chosen_settings,
    current_platform,
    same_platform,
    threads_of,
)
from niwfctl.backbone.probe import Probe, probe
from niwfctl.field.precision import chosen_precision
from niwfctl.records import Platform
from niwfctl.repository import Repository
from niwfctl.repository.record import record
from niwfctl.repository.regions import load_region
from niwfctl.repository.verify import LOGIT_TOLERANCE, Check


def logits_of_another_digest(repository: Repository, platform: Platform) -> Check:
    """What verify says of `apple` once its witness has another digest, and this platform."""
    (entry,) = repository.capability("apple").regions
    witness = entry.run.witness.model_copy(update={"digest": "sha256:0", "platform": platform})
    run = entry.run.model_copy(update={"witness": witness})
    changed = (entry.model_copy(update={"run": run}),)
    record(
        repository,
        lambda atlas: {"apple": atlas["apple"].model_copy(update={"regions": changed})},
        "Another witness",
    )
    return repository.verify(["apple"], deep=True).checks[-1]


def test_bits_are_compared_only_under_the_versions_that_were_recorded(
    committed: Repository,
) -> None:
    (entry,) = committed.capability("apple").regions
    here = entry.run.witness.platform
    assert not logits_of_another_digest(committed, here).ok
    upgraded = logits_of_another_digest(committed, here | {"transformers": "0.1"})
    assert upgraded.ok and "another platform" in upgraded.detail
    older = {key: value for key, value in here.items() if key != "transformers"}
    assert not logits_of_another_digest(committed, older).ok  # from before it was recorded


def test_bits_are_not_compared_where_the_threads_were_more_than_can_be_had(
    committed: Repository,
) -> None:
    here = committed.capability("apple").regions[0].run.witness.platform
    crowded = logits_of_another_digest(committed, here | {"threads": 4096})
    assert crowded.ok and "another platform" in crowded.detail
    with threads_of(here | {"threads": 4096}):
        assert torch.get_num_threads() < 4096


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_the_tolerance_allows_other_kernels_and_no_other_region(
    backbone: Path, tmp_path: Path, data: Path, quant: str
) -> None:
    repository = Repository.init(tmp_path / "new", model=str(backbone), dim=8, quant=quant)
    repository.train("apple", [data], QUICK)
    repository.commit(["apple"], "Apples")
    model = repository.load("apple")
    sealed = probe(model.adapter)
    model.backbone.model.set_attn_implementation("eager")
    elsewhere = probe(model.adapter)
    assert elsewhere.digest != sealed.digest
    assert sealed.deviation(elsewhere) < LOGIT_TOLERANCE
    region = load_region(repository, repository.capability("apple").regions[0])
    for up in region.bases[0].up.values():
        up.zero_()
    for field in (ActiveField.of_region(model.adapter.groups, region), None):
        model.adapter.active = field
        assert sealed.deviation(probe(model.adapter)) > LOGIT_TOLERANCE


@pytest.fixture
def _float32_in_bf16() -> Iterator[None]:
    """A program around that has float32 products computed in bf16."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")
    for products in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
        products.fp32_precision = "none"


@pytest.mark.usefixtures("_float32_in_bf16")
def test_a_program_that_rounds_float32_products_verifies_what_others_committed(
    committed: Repository,
) -> None:
    checks = committed.verify(deep=True).checks
    found = [one.detail for one in checks if one.check in ("anchors", "logits")]
    assert len(found) == 3 and all("equal bit for bit" in detail for detail in found)


@pytest.mark.usefixtures("_float32_in_bf16")
def test_logits_to_compare_are_computed_with_all_bits_of_float32(committed: Repository) -> None:
    model, seen = committed.load("apple"), []
    model.backbone.model.register_forward_pre_hook(lambda *_: seen.append(chosen_precision("cpu")))
    probe(model.adapter)
    assert seen == [None] and chosen_precision("cpu") == "bf16"


def test_what_all_logits_of_a_position_have_more_is_no_deviation() -> None:
    logits = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    shifted = logits + torch.tensor([[0.5], [-0.5], [3.0], [0.0]])
    deviation = Probe("", logits).deviation(Probe("", shifted))
    assert deviation == pytest.approx(0.0, abs=1e-6)
    assert Probe("", logits).deviation(Probe("", 0.9 * logits)) == pytest.approx(0.1, rel=0.01)
    assert Probe("", logits).deviation(Probe("", logits[:, :-1])) == float("inf")


@pytest.mark.parametrize(
    ("quant", "packages"),
    [("none", {"transformers"}), ("nf4", {"transformers", "bitsandbytes", "weights"})],
)
def test_a_witness_names_the_versions_and_weights_that_its_logits_depend_on(
    backbone: Path, tmp_path: Path, quant: str, packages: set[str]
) -> None:
    repository = Repository.init(tmp_path / "new", model=str(backbone), dim=8, quant=quant)
    platform = repository.config.backbone.witness.platform
    assert platform.keys() == {"torch", "device", "kernels", "threads", *packages}
    assert same_platform(platform | {"threads": 64}, platform)
    assert not same_platform(platform | {"torch": "0"}, platform)


def test_another_kind_of_device_is_another_platform() -> None:
    cpu, other = (current_platform(torch.device(kind)) for kind in ("cpu", "mps"))
    assert other["kernels"] == "mps"
    assert not same_platform(cpu, other) and not same_platform(other, cpu)


def test_a_gpus_workspace_that_was_chosen_makes_it_another_platform(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert chosen_settings("cuda") == {}
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert chosen_settings("cuda") == {"CUBLAS_WORKSPACE_CONFIG": ":16:8"}
    assert chosen_settings("cpu") == {}
    usual = current_platform(torch.device("cpu"))
    here = usual | chosen_settings("cuda")
    assert same_platform(here, here)
    assert not same_platform(here, usual) and not same_platform(usual, here)


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_how_a_gpu_may_round_sums_is_recorded_where_it_was_chosen(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    setting = f"allow_{kind}_reduced_precision_reduction"
    products = torch.backends.cuda.matmul
    setattr(products, setting, False)
    try:
        assert chosen_settings("cuda") == {setting: "False"}
    finally:
        setattr(products, setting, True)
    assert chosen_settings("cuda") == {}


def alter_last_bits(copy: Path) -> None:
    """Makes of a kept copy what other threads or another GPU may have made."""
    tensors = load_file(copy / "model.safetensors")
    key = next(key for key in tensors if key.endswith("nested_absmax"))
    tensors[key] *= 1 + 1e-6
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    (copy / IDENTITY).write_text(files_identity(copy, None))


def test_weights_in_4_bits_of_another_making_are_compared_by_tolerance(
    backbone: Path, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIWFCTL_CACHE", str(tmp_path / "cache"))
    repository = Repository.init(tmp_path / "new", model=str(backbone), dim=8, quant="nf4")
    repository.train("apple", [data], QUICK)
    repository.commit(["apple"], "Apples")
    assert "bit for bit" in repository.verify(deep=True).checks[-1].detail
    alter_last_bits(*(tmp_path / "cache" / "backbones").glob("*-nf4"))
    remade = repository.verify(deep=True).checks[-1]
    assert remade.ok and "another platform" in remade.detail
    platform = repository.capability("apple").regions[0].run.witness.platform
    older = {key: value for key, value in platform.items() if key != "weights"}
    assert not logits_of_another_digest(repository, older).ok  # from before it was recorded


def test_a_repository_on_weights_that_are_stored_in_4_bits_says_so(
    backbone: Path, tmp_path: Path, data: Path
) -> None:
    folder = save_quantized(tmp_path / "stored", backbone, **NF4)
    repository = Repository.init(tmp_path / "new", model=str(folder), dim=8)
    assert repository.config.backbone.quant == "nf4"
    assert "bitsandbytes" in repository.config.backbone.witness.platform
    assert "weights" not in repository.config.backbone.witness.platform  # they are the pinned files
    repository.train("apple", data=data, options=QUICK)
    repository.commit(["apple"], message="Apples")
    assert repository.verify(deep=True).ok


def test_4_bit_weights_that_computed_in_float32_before_are_compared_by_tolerance(
    backbone: Path, tmp_path: Path, data: Path
) -> None:
    form = {key: value for key, value in NF4.items() if key != "bnb_4bit_compute_dtype"}
    folder = save_quantized(tmp_path / "stored", backbone, **form)
    repository = Repository.init(tmp_path / "new", model=str(folder), dim=8)
    repository.train("apple", [data], QUICK)
    repository.commit(["apple"], "Apples")
    assert "bit for bit" in repository.verify(deep=True).checks[-1].detail
    model = repository.load("apple")
    now = probe(model.adapter)
    for module in model.backbone.model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = torch.float32
    before = probe(model.adapter)
    assert before.digest != now.digest and before.deviation(now) < LOGIT_TOLERANCE
    platform = repository.capability("apple").regions[0].run.witness.platform
    assert not logits_of_another_digest(repository, platform).ok
    earlier = {key: value for key, value in platform.items() if key != "compute"}
    found = logits_of_another_digest(repository, earlier)
    assert found.ok and "another platform" in found.detail
