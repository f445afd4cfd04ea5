"""What an earlier version wrote opens for ever."""

import tarfile
from pathlib import Path

import pytest

from niwfctl.repository import Repository

FIXTURE = Path(__file__).parents[1] / "fixtures" / "format1.tar"


def test_a_repository_of_format_1_opens_answers_and_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.setenv("NIWFCTL_BACKBONE", str(tmp_path / "backbone"))
    repository = Repository.open(tmp_path / "repository")
    assert sorted(repository.atlas()) == ["apple", "plum"]
    assert [commit.message for commit in repository.history.log()][:2] == ["Add plum", "Add apple"]
    report = repository.verify(deep=True)
    assert report.ok, report
    assert {check.check for check in report.checks} >= {"objects", "anchors", "logits"}
    assert isinstance(repository.load("apple").generate("Say apple.", max_new_tokens=2), str)
