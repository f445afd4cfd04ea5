"""Backbones that are built otherwise than most, from init to a deep verification."""

from pathlib import Path

import pytest
import tiny
from conftest import QUICK

from niwfctl.errors import BackboneError
from niwfctl.repository import Repository


@pytest.mark.parametrize("kind", ["gemma3_text", "gemma3"])
def test_a_model_with_or_without_eyes_learns_and_is_verified(
    tmp_path: Path, data: Path, kind: str
) -> None:
    backbone = tiny.save_tiny(tmp_path / "backbone", kind)
    repository = Repository.init(tmp_path / "new", model=str(backbone), dim=8)
    repository.train("apple", [data], QUICK)
    repository.commit(["apple"], "Apples")
    model = repository.load("apple")
    assert model.longest == tiny.SIZES["max_position_embeddings"]
    assert model.generate("Say apple 3.", max_new_tokens=3) is not None
    assert repository.verify(deep=True).ok


def test_a_model_whose_layers_read_several_states_a_token_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiny.CONFIGS, "gemma3n", tiny.several_streams)
    backbone = tiny.save_tiny(tmp_path / "backbone", "gemma3n")
    with pytest.raises(BackboneError, match="is not supported: its layers do not read one state"):
        Repository.init(tmp_path / "new", model=str(backbone), dim=8)
    assert not (tmp_path / "new").exists()
