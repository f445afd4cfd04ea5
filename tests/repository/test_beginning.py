"""Whoever replaces what niwf.toml pins is found, though every object is as it was committed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from histories import cut, limit
from tiny import save_tiny

from niwfctl.backbone.identity import earlier_identities
from niwfctl.repository import Repository


def failed(repository: Repository) -> str:
    """What verify says of the one check that fails."""
    (problem,) = (one for one in Repository.open(repository.path).verify().checks if not one.ok)
    assert problem.subject == "backbone" and problem.hindered is None
    return problem.detail


def edit(repository: Repository, change: Callable[[str], str]) -> None:
    """Commits another niwf.toml."""
    file = repository.path / "niwf.toml"
    before = file.read_text()
    file.write_text(change(before))
    assert file.read_text() != before
    repository.git.plain("commit", "--quiet", "--all", "-m", "Another niwf.toml")


@pytest.fixture
def other(tmp_path: Path) -> Repository:
    """A field on a backbone of the same shape, with other weights."""
    backbone = save_tiny(tmp_path / "other-backbone", seed=7)
    return Repository.init(tmp_path / "other", model=str(backbone), dim=8)


def test_another_backbone_of_the_same_shape_is_found(
    committed: Repository, other: Repository
) -> None:
    own, strange = committed.config.backbone, other.config.backbone

    def replaced(text: str) -> str:
        text = text.replace(own.model, strange.model).replace(own.identity, strange.identity)
        return text.replace(own.witness.digest, strange.witness.digest)

    edit(committed, replaced)
    assert "niwf.toml has another backbone and witness than at " in failed(committed)
    cut(committed)  # nothing tells any more where the field began
    assert "apple was trained on another backbone (sha256:" in failed(committed)


def test_a_witness_or_a_field_that_somebody_changed_is_found(committed: Repository) -> None:
    digest = committed.config.backbone.witness.digest
    edit(committed, lambda text: text.replace(digest, digest[::-1]))
    assert "another witness than at" in failed(committed)
    committed.git.plain("reset", "--quiet", "--hard", "HEAD~1")
    edit(committed, lambda text: text.replace("skip_system = true", "skip_system = false"))
    assert "another skip_system than at" in failed(committed)
    committed.git.plain("reset", "--quiet", "--hard", "HEAD~1")
    limit(committed, "max_takeover", 0.02, 0.05)
    assert Repository.open(committed.path).verify().ok


def test_a_shallow_clone_says_what_it_cannot_compare(committed: Repository, tmp_path: Path) -> None:
    edit(committed, lambda text: text.replace("skip_system = true", "skip_system = false"))
    source, copy = f"file://{committed.path}", tmp_path / "copy"
    committed.git.plain("clone", "--quiet", "--depth", "1", source, str(copy))
    checks = Repository.open(copy).verify().checks
    (detail,) = (one.detail for one in checks if one.check == "identity")
    assert "this clone is shallow" in detail
    assert "shallow" not in committed.verify().checks[0].detail


def test_one_backbone_whose_identity_is_computed_in_two_ways_verifies(
    committed: Repository, backbone: Path
) -> None:
    now, (*_, earlier) = committed.config.backbone.identity, earlier_identities(backbone, None)
    edit(committed, lambda text: text.replace(now, earlier))
    assert Repository.open(committed.path).verify().ok


def test_a_field_with_several_beginnings_verifies(
    committed: Repository, fresh: Repository, tmp_path: Path
) -> None:
    cut(committed)
    committed.write_bundle(tmp_path / "bundle")
    fresh.apply_bundle(tmp_path / "bundle")
    assert len(fresh.git.plain("rev-list", "--max-parents=0", "HEAD").split()) == 2
    assert fresh.verify().ok and list(fresh.atlas()) == ["apple"]
