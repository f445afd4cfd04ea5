"""Checks that committed capabilities are unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import torch
from niwfstore import Pointer
from torch import Tensor

from niwfctl.atlas import (
    Atlas,
    Capability,
    ObjectRef,
    RegionEntry,
    get_capability,
    owner_names,
    split_target,
)
from niwfctl.backbone.load import outline
from niwfctl.backbone.platform import current_platform, same_platform, threads_of
from niwfctl.backbone.probe import Probe, logits_platform, probe
from niwfctl.backbone.sites import find_sites
from niwfctl.errors import NiwfError, ObjectError, UnknownName, hindrance, shared
from niwfctl.field.basis import Site
from niwfctl.git.signature import Signature, signature, tag_signature
from niwfctl.layout import OBJECTS, object_file
from niwfctl.records import Witness
from niwfctl.repository.audit import audited, silenced
from niwfctl.repository.backbone import pinned_source
from niwfctl.repository.beginning import changed
from niwfctl.repository.model import Model
from niwfctl.repository.objects import obtain
from niwfctl.repository.pointers import pointer_problem, read_pointers
from niwfctl.repository.regions import load_region, read_coordinates, read_region
from niwfctl.repository.routing import base_tensors, routed_regions

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository

GATE_TOLERANCE = 1e-5  # of gates in (0, 2), recomputed on another platform
# Of logits on another platform, by `Probe.deviation`. On SmolLM2, other kernels cause at most 0.05,
# a missing basis at least 0.10, another capability 0.19 (docs/results/platforms.md).
LOGIT_TOLERANCE = 0.08


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        subject: `backbone`, `coordinates`, `commit`, `tag`, `atlas`, or the name of a capability.
        check: `identity`, `objects`, `signature`, `anchors`, `routing` or `logits`; in `niwfctl
            check` also `gate`, `perplexity`, `exact match`, `regression` or `owned`.
        ok: whether it passed.
        detail: what was compared, or why it failed.
        value: what a gate's measurement gave; None where nothing is measured.
        limit: what the gate allows.
        baseline: what the value or limit is compared with, of another revision.
        note: whether it only says what a reviewer should know.
        hindered: exit code of what kept it from being run; None if it was run.
    """

    subject: str
    check: str
    ok: bool
    detail: str
    value: float | None = None
    limit: float | None = None
    baseline: float | None = None
    note: bool = False
    hindered: int | None = None

    @property
    def state(self) -> str:
        """`ok`, `note`, `failed` or `not run`."""
        if self.hindered is not None:
            return "not run"
        return "failed" if not self.ok else "note" if self.note else "ok"


@dataclass(frozen=True)
class Report:
    """All checks of one verification, and the signature of what was verified."""

    revision: str
    signature: Signature
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether all passed."""
        return all(check.ok for check in self.checks)


def verify(repository: Repository, names: list[str], revision: str, deep: bool) -> Report:
    """Implements `Repository.verify`."""
    commit = repository.git.resolve(revision)
    atlas = repository.atlas(commit)
    chosen = [_chosen(atlas, name, revision) for name in names or sorted(atlas)]
    signed = signature(repository.git, commit)
    hashed = cache(partial(_problem, repository))  # bases are shared
    backbone, sites = _backbone(repository, chosen)
    checks = [backbone, _coordinates(repository, hashed), _signed("commit", signed)]
    if of_tag := tag_signature(repository.git, revision):
        checks.append(_signed("tag", of_tag))
    files = repository.git.files(commit, OBJECTS)
    needed = {object_file(ref.oid) for capability in chosen for ref in capability.objects}
    blobs = (blob for path, blob in files.items() if path in needed)
    pointers = read_pointers(repository.git, blobs)
    repository.remotes.gather(ref.oid for capability in chosen for ref in capability.objects)
    for capability in chosen:
        problems = [
            problem
            for ref in capability.objects
            for problem in (hashed(ref.oid, ref.size), _mispointed(ref, files, pointers))
            if problem
        ]
        checks += _objects_and_anchors(repository, capability, problems, sites)
    if not names:
        checks += _strays(repository, atlas, files, hashed)
    if not names and all(check.ok for check in checks):
        checks.append(_routing(repository, atlas))
    if deep and all(check.ok for check in checks):
        checks += _logits(repository, chosen)
    return Report(commit, signed, tuple(checks))


def _chosen(atlas: Atlas, name: str, revision: str) -> Capability:
    of, at = split_target(name)
    if at:
        raise UnknownName(
            f"no capability is called {name!r}: verify {of!r} at {at} with `niwfctl verify {of} "
            f"--rev {at}`"
        )
    return get_capability(atlas, name, revision)


def _signed(subject: str, found: Signature) -> Check:
    return Check(subject, "signature", found.state != "bad", str(found))


def _backbone(
    repository: Repository, chosen: Sequence[Capability]
) -> tuple[Check, list[Site] | None]:
    """Checks that the backbone is the one that capabilities were trained on.

    Also returns its linears, which all bases must fit.
    """
    pinned = repository.config.backbone
    try:
        source = pinned_source(repository)
        sites = find_sites(outline(source), repository.config.field.tap_layer)
    except NiwfError as error:
        hindered = hindrance(error)
        return Check("backbone", "identity", False, str(error), hindered=hindered), None
    if problem := changed(repository, source, chosen):
        return Check("backbone", "identity", False, problem), sites
    lacks = "; this clone is shallow, so niwf.toml is not compared with where the field began"
    detail = f"{pinned.model} is {source.identity}{lacks * repository.git.shallow}"
    return Check("backbone", "identity", True, detail), sites


def _coordinates(
    repository: Repository, hashed: Callable[[str, int | None], ObjectError | None]
) -> Check:
    oid = repository.config.field.coordinates
    problem = hashed(oid, None)
    if not problem:
        try:
            read_coordinates(repository)
        except ObjectError as error:
            problem = error
    return _sound("coordinates", [problem] if problem else [], f"object {oid[:12]}")


def _sound(subject: str, problems: Sequence[ObjectError], detail: str) -> Check:
    """Whether objects are what was committed, which is not known where they are only missing."""
    said = "; ".join(map(str, problems)) or detail
    hindered = shared([hindrance(problem) for problem in problems])
    return Check(subject, "objects", not problems, said, hindered=hindered)


def _objects_and_anchors(
    repository: Repository,
    capability: Capability,
    problems: list[ObjectError],
    sites: Sequence[Site] | None,
) -> Iterator[Check]:
    detail = f"{len(capability.objects)} objects hashed, {capability.size:,} bytes"
    yield _sound(capability.name, problems, detail)
    if not problems:
        for entry in capability.all_regions:
            yield _anchors(repository, capability.name, entry, sites)


def _strays(
    repository: Repository,
    atlas: Atlas,
    files: Mapping[str, str],
    hashed: Callable[[str, int | None], ObjectError | None],
) -> Iterator[Check]:
    """Checks the pointers that no capability names, if any: a clone gets their objects, too.

    A merge by plain git may leave some, which is no harm where they lead somewhere.
    """
    named = {object_file(ref.oid) for capability in atlas.values() for ref in capability.objects}
    named.add(object_file(repository.config.field.coordinates))
    strays = {path: blob for path, blob in files.items() if path not in named}
    pointers = read_pointers(repository.git, strays.values())
    problems = []
    for path, blob in strays.items():
        found = pointers[blob]
        if isinstance(found, Exception):
            problems.append(ObjectError(f"{path} is {found}"))
        elif path != object_file(found.oid):
            problems.append(ObjectError(f"{path} points to object {found.oid}"))
        elif problem := hashed(found.oid, found.size):
            problems.append(problem)
    if problems:
        said = f"{'; '.join(map(str, problems))}: no capability names them, so `git rm` them"
        nowhere = ObjectError.exit_code  # that one leads nowhere is what this looks for
        hindered = shared([hindrance(problem) for problem in problems], (None, nowhere))
        yield Check("atlas", "objects", False, said, hindered=hindered)
    elif strays:
        said = f"{len(strays)} pointers that no capability names lead to objects"
        yield Check("atlas", "objects", True, said)


def _routing(repository: Repository, atlas: Atlas) -> Check:
    base, regions = base_tensors(repository), routed_regions(repository, atlas)
    found = audited(base, regions)
    detail = "no region takes over more of an earlier one than it may"
    if found.most:
        name, share = found.most
        detail += f"; all later ones together win at most {share:.1%} of one, of {name}"
    if exempt := _exempt(repository, atlas):
        detail += f"; by their own terms, {exempt}"
    if held_back := silenced(base, regions):
        detail += f"; {'; '.join(map(str, held_back))} (`niwfctl merge HEAD` settles it)"
    if found.excesses:
        said = "; ".join(map(str, found.excesses))
        # a pull request's branch alone is whole: only what it is merged with unsettles it
        detail = (
            f"{said}: settle it with `niwfctl merge HEAD` or, if this is a pull request's merge, "
            "with `niwfctl merge origin/main` on its branch"
        )
    return Check("atlas", "routing", not found.excesses, detail)


def _exempt(repository: Repository, atlas: Atlas) -> str:
    """Regions with terms of their own, which whoever reviews a change should see; as a clause."""
    limit, whose = repository.config.routing.max_takeover, owner_names(atlas)
    found = []
    for name, capability in atlas.items():
        for terms in (entry.terms for entry in capability.regions if entry.terms):
            if terms.max_takeover > limit:
                found.append(f"{name} may take over {terms.max_takeover:.0%} of each earlier one")
            if replaced := {whose[id] for id in terms.supersedes if id in whose}:
                found.append(f"{name} competes with {', '.join(sorted(replaced))} on equal terms")
    return ", ".join(found)


def _problem(repository: Repository, oid: str, size: int | None) -> ObjectError | None:
    try:
        obtain(repository, oid, size, repository.store.verify)
    except ObjectError as error:
        return error
    return None


def _mispointed(
    ref: ObjectRef, files: Mapping[str, str], pointers: Mapping[str, Pointer | Exception]
) -> ObjectError | None:
    problem = pointer_problem(ref, files, pointers)
    return ObjectError(problem) if problem else None


def _anchors(
    repository: Repository, name: str, entry: RegionEntry, sites: Sequence[Site] | None
) -> Check:
    try:
        region = load_region(repository, entry, sites=sites)
    except ObjectError as error:
        return Check(name, "anchors", False, str(error))
    for ref, basis in zip(entry.bases, region.bases, strict=True):
        if not basis.is_finite():
            problem = f"object {ref.oid[:12]} holds a value that is not finite"
            return Check(name, "anchors", False, problem)
    here = current_platform(torch.device("cpu"))
    same = same_platform(here, entry.sealed_on)
    with threads_of(entry.sealed_on):
        places = region.differing_anchors(0.0 if same else GATE_TOLERANCE)
    count = len(region.anchors)
    if places:
        shown = ", ".join(f"anchor {anchor} in layer {layer}" for anchor, layer in places[:3])
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        return Check(name, "anchors", False, f"the field differs at {shown}{more}")
    how = "equal bit for bit" if same else f"equal within {GATE_TOLERANCE} (another platform)"
    return Check(name, "anchors", True, f"gates at {count} anchors {how}")


def _logits(repository: Repository, capabilities: list[Capability]) -> Iterator[Check]:
    model = Model(repository)
    witness = repository.config.backbone.witness
    yield _compared(model, "backbone", witness, model.base_probe)
    for capability in capabilities:
        for entry in capability.all_regions:
            model.adapter.active = model.resident.field(entry)
            sample = read_region(repository, entry)["probe"]
            yield _compared(model, capability.name, entry.run.witness, sample)
    model.adapter.detach()


def _compared(model: Model, subject: str, witness: Witness, sample: Tensor) -> Check:
    here = logits_platform(model.adapter)
    with threads_of(witness.platform):
        now = probe(model.adapter)
    if same_platform(here, witness.platform):
        equal = now.digest == witness.digest
        detail = "equal bit for bit" if equal else "differ from those at commit"
        return Check(subject, "logits", equal, f"probe logits {detail}")
    deviation = Probe(witness.digest, sample).deviation(now)
    return Check(
        subject,
        "logits",
        deviation <= LOGIT_TOLERANCE,
        f"probe logits differ by {deviation:.2g} standard deviations (another platform; "
        f"{LOGIT_TOLERANCE} is allowed)",
    )
