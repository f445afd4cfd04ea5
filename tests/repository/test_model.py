"""The loaded backbone: what it reads, and what it keeps."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from conftest import QUICK
from histories import revise
from tiny import write_data

from niwfctl.atlas import RegionEntry
from niwfctl.backbone.adapter import Factors
from niwfctl.backbone.batch import pad, prompt_mask
from niwfctl.backbone.generation import AnswerOptions, Request
from niwfctl.backbone.prompts import prompt_tokens
from niwfctl.backbone.sites import decoder_layers
from niwfctl.errors import UnknownName, UsageError
from niwfctl.field.region import Region
from niwfctl.git.git import Git
from niwfctl.recent import Recent
from niwfctl.records import Example, Message
from niwfctl.repository import Repository
from niwfctl.repository.model import AUTO, Model
from niwfctl.repository.regions import load_region

PROMPTS = ["Say apple 3.", "?", "zzz qqq plum 5."]


@pytest.fixture
def two(committed: Repository, tmp_path: Path) -> Repository:
    """A repository with `apple` and `pear`."""
    committed.train("pear", [write_data(tmp_path / "pear.jsonl", word="pear")], QUICK)
    committed.commit(["pear"], "Pears")
    return committed


def tokens_of(model: Model) -> list[list[int]]:
    return [prompt_tokens(model.backbone.tokenizer, [Message("user", one)]) for one in PROMPTS]


def test_coordinates_are_those_of_a_whole_pass_bit_for_bit(committed: Repository) -> None:
    model = committed.load("apple")
    rows = tokens_of(model)
    tokens = pad(rows)
    mask = prompt_mask([len(row) for row in rows], tokens.shape[1], model.skip)
    with torch.no_grad(), model.adapter.prompts(mask):
        model.backbone.model(tokens)
    assert torch.equal(model.read(rows), model.adapter.z)


def test_coordinates_are_read_without_computing_the_layers_above(committed: Repository) -> None:
    model = committed.load("apple")
    tap, ran = model.adapter.layers[0], []
    for index, layer in enumerate(decoder_layers(model.backbone.model)):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    model.coordinate(PROMPTS[0])
    assert ran == list(range(tap))


def test_a_batch_of_known_capabilities_reads_nothing_again(
    two: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, head = two.load(None), two.git.resolve("HEAD")
    names = [f"apple@{head}", f"pear@{head}", AUTO, None]
    rows = tokens_of(model)[:1] * len(names)

    def answers() -> list[str]:
        model.use_each(names)
        batch = [
            Request(model.backbone.tokenizer, row, model.skip, AnswerOptions(5)) for row in rows
        ]
        model.answer(batch)
        return [row.text for row in batch]

    first, active = answers(), model.adapter.active
    factors = active.at(model.adapter.z).factors
    monkeypatch.setattr(Repository, "object_path", None)
    monkeypatch.setattr(Git, "blob", None)
    assert answers() == first
    assert model.adapter.active.at(model.adapter.z).factors is factors


def test_the_owner_of_a_prompt_is_one_of_what_is_committed_now(two: Repository) -> None:
    model = two.load(None)
    assert set(model.route().claimants) == {"apple", "pear"}
    two.remove("pear")
    assert set(model.route().claimants) == {"apple"}


def test_asking_who_owns_a_prompt_leaves_active_what_is(two: Repository) -> None:
    model = two.load("apple")
    active = model.adapter.active
    example = Example((Message("user", PROMPTS[0]),), "", "")
    before = model.generate(PROMPTS[0], max_new_tokens=8)
    bids, (owner,) = model.bids(PROMPTS[0]), model.owners([example])
    assert bids[0][0] == owner
    assert model.adapter.active is active and model.routes is None
    assert model.generate(PROMPTS[0], max_new_tokens=8) == before


def test_no_more_regions_stay_in_memory_than_are_to(two: Repository) -> None:
    model, fields = Model(two, resident=1), []
    for name in ("apple", "pear"):
        model.use(name)
        fields.append(weakref.ref(model.adapter.active))
    assert [one() is not None for one in fields] == [False, True]
    model.use(None)
    model.use("pear")
    assert model.adapter.active is fields[1]()
    model.use("apple")
    assert [one() for one in fields] == [None, None]


@pytest.mark.parametrize("name", ["apple", "apple@HEAD", "apple@{branch}"])
def test_what_a_name_means_follows_head(two: Repository, name: str) -> None:
    model, name = two.load(None), name.format(branch=two.git.branch())

    def entries() -> list[RegionEntry]:
        found = []
        for use in (model.use, lambda one: model.use_each([one])):
            use(name)
            field = model.adapter.active.at(torch.zeros(1, model.adapter.coordinates.dim))
            found += [e for e in versions if model.resident.field(e) is field]
        return found

    versions = [two.capability("apple").regions[0]]
    first = two.git.resolve("HEAD")
    assert entries() == versions * 2
    revise(two, "apple", 2)
    versions.append(two.capability("apple").regions[0])
    assert entries() == versions[1:] * 2
    two.rollback(to=first)
    assert entries() == versions[:1] * 2
    two.remove("apple")
    with pytest.raises(UnknownName, match="apple"):
        model.use(name)
    with pytest.raises(UnknownName, match="apple"):
        model.use_each([name])
    model.use(f"apple@{first}")
    assert model.adapter.active is model.resident.field(versions[0])


def test_using_a_resident_capability_starts_no_process(
    two: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, head = two.load("apple"), two.git.resolve("HEAD")
    names = ["pear@HEAD", None, f"pear@{head}", AUTO, "apple"]
    for name in names:
        model.use(name)
    monkeypatch.setattr("subprocess.Popen", None)
    for name in names:
        model.use(name)
    model.use_each(names)


def test_a_closed_model_frees_its_memory_at_once(two: Repository) -> None:
    gc.disable()
    try:
        with two.load("apple") as model:
            model.use_each(["apple", "pear"])
            model.answers([Example((Message("user", one),), "", one) for one in PROMPTS[:2]], 2)
            model.use("pear")
            held = [weakref.ref(one) for one in (model.backbone.model, model.adapter.active)]
            backbone = model.backbone.model
            bare = weakref.ref(model.adapter)
        assert model.close() is None and bare() is None
        assert held[1]() is None and held[0]() is backbone
        backbone(torch.tensor([[1, 2]]))  # without any field
        del backbone
        assert held[0]() is None
    finally:
        gc.enable()
    asking = [lambda: model.use("apple"), lambda: model.generate("?"), lambda: model.device]
    for ask in asking:
        with pytest.raises(UsageError, match="this model is closed: load it again"):
            ask()
    with pytest.raises(AttributeError, match="'Model' object has no attribute 'close_it'"):
        model.close_it()


def test_a_model_says_what_it_is(two: Repository) -> None:
    model = two.load("apple")
    place = f"<Model of {two.path}: {two.config.backbone.model} on cpu, active: "
    assert repr(model) == f"{place}apple>"
    model.use_each(["pear", AUTO, None])
    assert repr(model) == f"{place}for each row its own ('pear', 'auto', 'base')>"
    model.route()
    assert repr(model) == f"{place}auto>"
    model.adapter.active = None
    assert repr(model) == f"{place}a field of the caller's>"
    model.use(None)
    assert repr(model) == f"{place}base>"
    model.close()
    assert repr(model) == f"<Model of {two.path}: closed>"


def test_joined_fields_are_what_stacking_their_bases_gives_bit_for_bit(two: Repository) -> None:
    model = two.load(None)
    entries = [two.capability(name).regions[0] for name in ("apple", "pear")]
    bases = [basis for entry in entries for basis in load_region(two, entry).bases]
    stacked = Factors.stack(model.adapter.groups, bases)
    parts = [model.resident.field(one).factors for one in entries]
    joined = Factors.join(model.adapter.groups, parts)
    assert all(map(torch.equal, joined.down, stacked.down))
    assert all(torch.equal(joined.up[name], up) for name, up in stacked.up.items())


def test_of_a_resident_region_only_the_stacked_bases_are_held(
    committed: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref] = []

    def load(*arguments: object) -> Region:
        region = load_region(*arguments)
        loaded.extend(weakref.ref(one) for basis in region.bases for one in basis.down.values())
        return region

    monkeypatch.setattr("niwfctl.repository.resident.load_region", load)
    model = committed.load("apple")
    assert model.adapter.active and loaded
    assert not any(one() is not None for one in loaded)


def test_regions_that_may_be_reused_are_loaded_a_few_at_a_time(
    two: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref] = []
    most = 0

    def load(*arguments: object) -> Region:
        nonlocal most
        region = load_region(*arguments)
        held.extend(weakref.ref(one) for one in region.bases[0].down.values())
        most = max(most, sum(one() is not None for one in held))
        return region

    monkeypatch.setattr("niwfctl.repository.train.load_region", load)
    monkeypatch.setattr("niwfctl.training.reuse.TOGETHER", 1)
    data = write_data(tmp_path / "quince.jsonl", word="quince")
    two.train("quince", [data], QUICK.model_copy(update={"reuse": ("auto",)}))
    sites = len(two.load(None).adapter.sites)
    assert len(held) == 4 * sites and most == sites  # two to probe, and again as finalists


def test_the_regions_asked_for_longest_ago_make_room() -> None:
    made: list[int] = []
    recent: Recent[int, int] = Recent(2)
    for key in (1, 2, 1, 3, 1, 2):
        assert recent.get(key, lambda key=key: made.append(key) or key) == key
    assert made == [1, 2, 3, 2]
