"""What an earlier version wrote opens for ever."""

import tarfile
from pathlib import Path

import pytest
from conftest import HUB_COMMIT

from niwfctl.backbone.identity import earlier_identities
from niwfctl.repository import Repository

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def opened(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Repository:
    """The repository of a fixture."""
    with tarfile.open(FIXTURES / request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.setenv("NIWFCTL_BACKBONE", str(tmp_path / "backbone"))
    return Repository.open(tmp_path / "repository")


@pytest.mark.parametrize("opened", ["format1.tar"], indirect=True)
def test_a_repository_of_format_1_opens_answers_and_verifies(opened: Repository) -> None:
    repository = opened
    assert sorted(repository.atlas()) == ["apple", "plum"]
    assert [commit.message for commit in repository.history.log()][:2] == ["Add plum", "Add apple"]
    report = repository.verify(deep=True)
    assert report.ok, report
    assert {check.check for check in report.checks} >= {"objects", "anchors", "logits"}
    assert isinstance(repository.load("apple").generate("Say apple.", max_new_tokens=2), str)


@pytest.mark.parametrize("opened", ["format2.tar"], indirect=True)
def test_a_repository_of_format_2_opens_answers_and_verifies(opened: Repository) -> None:
    atlas = opened.atlas()
    assert sorted(atlas) == ["apple", "both", "either", "pear", "plum"]
    assert len(atlas["apple"].regions) == len(atlas["either"].regions) == 2
    assert [part.weight for part in atlas["both"].parts] == [0.7, -0.3]
    assert atlas["plum"].regions[0].run.reused and atlas["pear"].regions[0].terms.general
    report = opened.verify(deep=True)
    assert report.ok, report
    model = opened.load(None)
    for name in atlas:
        model.use(name)
        assert isinstance(model.generate("Say apple.", max_new_tokens=2), str)
    model.route()
    assert isinstance(model.generate("Say pear.", max_new_tokens=2), str)


def test_on_a_hub_model_a_copy_of_its_files_will_do_and_older_ones_pin_its_commit(
    hub_cache: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository.init(tmp_path / "field", model="owner/tiny", dim=8)
    pinned = repository.config.backbone
    assert (pinned.model, pinned.revision) == ("owner/tiny", HUB_COMMIT)
    assert pinned.identity.startswith("sha256:") and repository.verify().ok
    config = repository.path / "niwf.toml"
    older = config.read_text().replace(pinned.identity, f"hub:owner/tiny@{HUB_COMMIT}")
    config.write_text(older)
    repository.git.plain("commit", "--quiet", "--all", "-m", "As before")
    assert Repository.open(repository.path).verify().ok
    repository.git.plain("reset", "--quiet", "--hard", "HEAD~1")
    monkeypatch.setenv("NIWFCTL_BACKBONE", str(backbone))
    assert Repository.open(repository.path).verify(deep=True).ok


def test_what_an_earlier_version_made_on_the_same_backbone_can_be_taken_in(
    fresh: Repository, committed: Repository, backbone: Path, tmp_path: Path
) -> None:
    config, pinned = committed.path / "niwf.toml", committed.config.backbone.identity
    *_, earlier = earlier_identities(backbone, None)
    config.write_text(config.read_text().replace(pinned, earlier))
    committed.git.plain("commit", "--quiet", "--all", "-m", "As before")
    assert Repository.open(committed.path).config.backbone.identity != pinned
    committed.write_bundle(tmp_path / "bundle")
    fresh.apply_bundle(tmp_path / "bundle")
    assert list(fresh.atlas()) == ["apple"] and fresh.verify().ok
