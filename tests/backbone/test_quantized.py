"""Weights in 4 bits: kept for the commands after, or stored so by others."""

import os
import time
from pathlib import Path

import bitsandbytes
import pytest
import torch
from tiny import NF4, save_quantized

from niwfctl.backbone.cache import cache_folder
from niwfctl.backbone.load import load, resolve
from niwfctl.errors import BackboneError

TOKENS = torch.arange(40).reshape(2, 20)


def copies() -> list[Path]:
    """What is kept of weights in 4 bits."""
    return sorted((cache_folder() / "backbones").glob("*-nf4"))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NIWFCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_weights_in_4_bits_are_kept_and_then_read_with_the_same_bits(
    wide: Path, empty_cache: Path
) -> None:
    made = load(resolve(str(wide)), "nf4").model
    (copy,) = copies()
    written = (copy / "model.safetensors").stat().st_mtime_ns
    read = load(resolve(str(wide)), "nf4").model
    assert (copy / "model.safetensors").stat().st_mtime_ns == written
    assert read.config.quantization_config.load_in_4bit
    assert {type(module) for module in read.modules()} == {type(one) for one in made.modules()}
    with torch.no_grad():
        assert torch.equal(made(TOKENS).logits, read(TOKENS).logits)


def test_a_kept_copy_that_was_damaged_is_made_anew(
    wide: Path, empty_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(resolve(str(wide)), "nf4")
    weights = copies()[0] / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    load(resolve(str(wide)), "nf4")
    assert weights.read_bytes() == whole and "was damaged" in caplog.text


def test_a_kept_copy_is_others_to_read_and_a_kills_leftovers_go(
    wide: Path, empty_cache: Path
) -> None:
    old, new = (empty_cache / "backbones" / f".tmp-{name}" for name in ("old", "new"))
    for folder, age in ((old, 2 * 86400), (new, 3600)):
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - age,) * 2)
    mask = os.umask(0o022)
    try:
        load(resolve(str(wide)), "nf4")
    finally:
        os.umask(mask)
    (copy,) = copies()
    assert copy.stat().st_mode & 0o777 == 0o755
    assert {file.stat().st_mode & 0o777 for file in copy.iterdir()} == {0o644}
    assert new.exists() and not old.exists()


def test_other_weights_have_a_copy_of_their_own(
    backbone: Path, wide: Path, empty_cache: Path
) -> None:
    for folder in (backbone, wide):
        load(resolve(str(folder)), "nf4")
    assert len(copies()) == 2


def test_a_copy_that_cannot_be_kept_is_said_and_the_backbone_loaded(
    wide: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NIWFCTL_CACHE", "/dev/null/cache")
    assert load(resolve(str(wide)), "nf4").quant == "nf4"
    assert "cannot be kept in /dev/null/cache" in caplog.text


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (RuntimeError("no kernel image is available\nand more"), BackboneError),
        (torch.OutOfMemoryError("no memory is available"), MemoryError),
    ],
)
def test_why_weights_cannot_be_put_into_4_bits_is_said(
    wide: Path,
    empty_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    cause: Exception,
    told: type[Exception],
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise cause

    monkeypatch.setattr(bitsandbytes.functional, "quantize_4bit", broken)
    with pytest.raises(told, match=r"no (kernel image|memory) is available$"):
        load(resolve(str(wide)), "nf4")
    assert not copies()


@pytest.mark.parametrize("quant", ["none", "nf4"])
def test_weights_that_are_stored_in_4_bits_are_taken_as_they_are(
    wide: Path, tmp_path: Path, empty_cache: Path, quant: str
) -> None:
    folder = save_quantized(tmp_path / "stored", wide, **NF4)
    backbone, ours = load(resolve(str(folder)), quant), load(resolve(str(wide)), "nf4")
    assert backbone.quant == "nf4" and len(copies()) == 1
    with torch.no_grad():
        assert torch.equal(backbone.model(TOKENS).logits, ours.model(TOKENS).logits)


@pytest.mark.parametrize("asked", [{}, {"bnb_4bit_compute_dtype": torch.float16}])
def test_weights_that_are_stored_in_4_bits_compute_in_bf16_whatever_their_files_ask_for(
    wide: Path, tmp_path: Path, empty_cache: Path, asked: dict[str, torch.dtype]
) -> None:
    form = {key: value for key, value in NF4.items() if key != "bnb_4bit_compute_dtype"} | asked
    stored = load(resolve(str(save_quantized(tmp_path / "stored", wide, **form)))).model
    ours = load(resolve(str(wide)), "nf4").model
    with torch.no_grad():
        assert torch.equal(stored(TOKENS).logits, ours(TOKENS).logits)


@pytest.mark.parametrize(
    ("form", "name"), [({"load_in_8bit": True}, "int8"), ({"load_in_4bit": True}, "fp4")]
)
def test_weights_that_are_stored_otherwise_are_no_nf4(
    wide: Path, tmp_path: Path, form: dict[str, bool], name: str
) -> None:
    folder = save_quantized(tmp_path / "stored", wide, **form)
    with pytest.raises(BackboneError, match=f"are already quantized by {name}: use"):
        load(resolve(str(folder)), "nf4")
    assert load(resolve(str(folder))).quant == "none"
