"""Objects of others, with the right hashes and pins: what does not fit is refused in a sentence."""

import json
from collections.abc import Callable

import pytest
import torch
from niwfstore import ObjectStore
from torch import Tensor
from typer.testing import Result

from niwfctl.atlas import ObjectRef
from niwfctl.layout import manifest_file
from niwfctl.repository import Repository
from niwfctl.repository.record import record
from niwfctl.repository.regions import pins
from niwfctl.tensors import as_bytes, read_tensors

Tensors = dict[str, Tensor]
Change = Callable[[Tensors], Tensors]
COMMANDS = (["run", "hello", "--capability", "apple"], ["run", "hello", "--auto"])


def put(store: ObjectStore, tensors: Tensors) -> ObjectRef:
    return ObjectRef.of(store.put_tensors(as_bytes(tensors)))


def forge(
    repository: Repository, region: Change | None = None, basis: Change | None = None
) -> None:
    """Commits `apple` with its region, or its bases, changed; hashes and pins are right."""
    (entry,) = repository.capability("apple").regions

    def tensors(ref: ObjectRef) -> Tensors:
        return read_tensors(repository.object_path(ref.oid))

    bases = entry.bases
    if basis:
        bases = tuple(put(repository.store, basis(tensors(ref))) for ref in bases)
    own = (region or dict)(tensors(entry.region)) | pins(bases, entry.scale, entry.layers)
    forged = entry.model_copy(update={"region": put(repository.store, own), "bases": bases})
    record(
        repository,
        lambda atlas: {"apple": atlas["apple"].model_copy(update={"regions": (forged,)})},
        "Forge",
    )


def replaced(key: str, value: Callable[[Tensor], Tensor]) -> Change:
    return lambda tensors: tensors | {key: value(tensors[key])}


def with_nan(tensor: Tensor) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[0] = torch.nan
    return changed


def narrow(tensors: Tensors) -> Tensors:
    return {key: t[:, :5].contiguous() if key.endswith(".A") else t for key, t in tensors.items()}


def narrow_one(tensors: Tensors) -> Tensors:
    key = next(key for key in tensors if key.endswith(".A"))
    return tensors | {key: tensors[key][:, :5].contiguous()}


def renamed(tensors: Tensors) -> Tensors:
    return {f"layers.x.{key}": tensor for key, tensor in tensors.items()}


@pytest.mark.parametrize(
    "change",
    [
        replaced("cell.mean", lambda mean: mean[:3].clone()),
        replaced("cell.factor", with_nan),
        replaced("cell.factor", torch.Tensor.neg),
        replaced("cell.radius", lambda radius: radius.repeat(2)),
        replaced("anchors.occupied", lambda z: z[:, :3].contiguous()),
        replaced("anchors.occupied", with_nan),
        replaced("anchors.occupied", lambda z: z[:0].clone()),
    ],
    ids=["mean", "factor NaN", "factor negative", "radius", "anchors", "anchors NaN", "no anchors"],
)
def test_a_region_of_another_shape_or_without_numbers_is_refused(
    niwfctl: Callable[..., Result], committed: Repository, change: Change
) -> None:
    forge(committed, region=change)
    require_refused(niwfctl, committed, *COMMANDS)


@pytest.mark.parametrize(
    "change",
    [
        replaced("snapshot", lambda gates: gates[:-1].clone()),
        replaced("generator.outer.bias", with_nan),
        replaced("generator.inner.weight", lambda weight: weight[:, :3].contiguous()),
        replaced("generator.inner.weight", lambda weight: weight[0].clone()),
        lambda tensors: tensors | {"generator.gain": torch.ones(3)},
    ],
    ids=["snapshot", "generator NaN", "generator", "generator flat", "gain"],
)
def test_a_generator_that_does_not_fit_its_region_is_refused(
    niwfctl: Callable[..., Result], committed: Repository, change: Change
) -> None:
    forge(committed, region=change)
    require_refused(niwfctl, committed, COMMANDS[0])


def claimed(size: int) -> Change:
    """A generator whose tensors take no bytes, so that they can claim any size."""
    empty = torch.empty(0)
    claims = {"inner.weight": torch.empty(size, 0), "inner.bias": empty}
    claims |= {"outer.weight": torch.empty(0, 0), "outer.bias": empty}
    return lambda tensors: tensors | {f"generator.{key}": value for key, value in claims.items()}


@pytest.mark.parametrize(
    "change",
    [
        claimed(1 << 50),
        replaced("generator.inner.bias", lambda bias: bias[:-1].clone()),
        replaced("anchors.sampled", lambda z: torch.empty(*z.shape, 0)),
        lambda tensors: tensors | {"cell.freedom": torch.full((9, 1), 10.0).double()},
    ],
    ids=["a generator of 4 PB", "bias", "flat anchors", "freedom"],
)
def test_tensors_that_claim_another_size_are_refused_before_anything_is_allocated(
    niwfctl: Callable[..., Result], committed: Repository, change: Change
) -> None:
    forge(committed, region=change)
    require_refused(niwfctl, committed, COMMANDS[0])


def rank_0(tensors: Tensors) -> Tensors:
    return {key: t[:0] if key.endswith(".A") else t[:, :0] for key, t in tensors.items()}


def whole_numbers(tensors: Tensors) -> Tensors:
    return {key: t.long() for key, t in tensors.items()}


@pytest.mark.parametrize(
    "change", [narrow, narrow_one, renamed, rank_0, whole_numbers, lambda tensors: {}]
)
def test_bases_of_other_linears_are_refused(
    niwfctl: Callable[..., Result], committed: Repository, change: Change
) -> None:
    forge(committed, basis=change)
    require_refused(niwfctl, committed, COMMANDS[0])


def test_verify_finds_a_basis_that_is_not_finite(committed: Repository) -> None:
    key = next(iter(basis_of(committed)))
    forge(committed, basis=replaced(key, with_nan))
    (failed,) = [check for check in committed.verify().checks if not check.ok]
    assert failed.check == "anchors" and "not finite" in failed.detail


def basis_of(repository: Repository) -> Tensors:
    (entry,) = repository.capability("apple").regions
    return read_tensors(repository.object_path(entry.bases[0].oid))


def test_a_manifest_of_an_impossible_layer_is_refused(
    niwfctl: Callable[..., Result], committed: Repository
) -> None:
    path = committed.path / manifest_file("apple")
    manifest = json.loads(path.read_text())
    manifest["regions"][0]["layers"] = [2**70]
    path.write_text(json.dumps(manifest))
    committed.git.plain("commit", "--quiet", "--all", "-m", "An impossible layer")
    require_refused(niwfctl, committed, COMMANDS[0])


def require_refused(
    niwfctl: Callable[..., Result], repository: Repository, *commands: list[str]
) -> None:
    result = niwfctl("-C", repository.path, "verify", "--json")
    assert result.exit_code == 1, result.output
    failed = [check for check in json.loads(result.stdout)["checks"] if not check["ok"]]
    assert [check["check"] for check in failed] == ["anchors"]
    assert "do not fit each other" in failed[0]["detail"]
    for command in commands:
        result = niwfctl("-C", repository.path, *command)
        assert result.exit_code == 8 and result.stderr.count("\n") == 1, result.output
        assert "do not fit each other" in result.stderr
