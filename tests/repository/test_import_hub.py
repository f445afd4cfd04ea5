"""LoRAs of the Hugging Face hub, as capabilities."""

import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from conftest import HUB_COMMIT
from typer.testing import Result

from niwfctl.errors import BackboneError
from niwfctl.repository import Repository


@pytest.fixture
def published(hub_cache: Path, lora: Path) -> Path:
    """What an earlier download of someone/some-lora left in the hub's cache."""
    place = hub_cache.parents[2] / "models--someone--some-lora"
    shutil.copytree(hub_cache.parents[1] / "refs", place / "refs")
    return Path(shutil.copytree(lora, place / "snapshots" / HUB_COMMIT))


def test_a_hub_id_is_taken_from_the_hubs_cache(
    niwfctl: Callable[..., Result], fresh: Repository, published: Path, data: Path
) -> None:
    (published / "chat_template.jinja").write_text("{{ messages }}")
    arguments = ["import", "someone/some-lora", "--name", "apple", "--data", data]
    done = niwfctl("-C", fresh.path, *arguments)
    assert done.exit_code == 0, done.output
    assert "the chat template in someone/some-lora is not the backbone's" in done.stderr
    copied = fresh.import_adapter(shutil.copytree(published, fresh.path / "lora"), "plum", [data])
    assert fresh.capability("apple").objects == copied.capability.objects


def test_only_files_that_an_import_reads_are_downloaded(
    fresh: Repository, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = huggingface_hub.snapshot_download, []

    def noting(*names: str, **options: object) -> str:
        asked.extend(options["allow_patterns"])
        return real(*names, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", noting)
    with pytest.raises(BackboneError, match="the adapter 'someone/else' is not a folder and can"):
        fresh.import_adapter("someone/else", "apple", prompts=["unread.txt"])
    files = ["adapter_config.json", "adapter_model.safetensors"]
    assert asked == [*files, "chat_template.jinja", "tokenizer_config.json"]
