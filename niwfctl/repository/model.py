"""The loaded backbone with the capabilities of a repository."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, TextStreamer

from niwfctl.atlas import ObjectRef, RegionEntry
from niwfctl.backbone.adapter import ActiveField, FieldAdapter
from niwfctl.backbone.batch import batched, pad, prompt_mask
from niwfctl.backbone.load import Backbone, Source, load, quiet, resolve
from niwfctl.backbone.prompts import Tokens, encode, prompt_tokens
from niwfctl.backbone.router import Router
from niwfctl.backbone.scoring import Score, Scorer
from niwfctl.backbone.sites import find_sites
from niwfctl.errors import BackboneError, DataError, ObjectError, UsageError
from niwfctl.field.basis import Basis
from niwfctl.field.coordinates import CoordinateMap
from niwfctl.field.region import Region
from niwfctl.field.routing import BASE
from niwfctl.repository.routing import base_cell, stakes
from niwfctl.tensors import read_tensors
from niwfctl.training.data import Example, Message

if TYPE_CHECKING:
    from niwfctl.repository.repository import Repository


AUTO = "--auto"  # no capability can be called so


@dataclass(frozen=True)
class Routes:
    """Who owns which prompts.

    Attributes:
        claimants: names of the capabilities, one a claim; a name with several regions comes again.
    """

    claimants: list[str]
    router: Router

    @property
    def names(self) -> list[str | None]:
        """Owners of the prompts of the last batch; None for the base."""
        return [
            None if index == BASE else self.claimants[index]
            for index in self.router.owners.tolist()
        ]


class Model:
    """A backbone in which one capability, or none, is active.

    Capabilities stay resident once used, so that going back to one is instant.

    Attributes:
        adapter: the field inside the model, for those who call the model themselves.
        active: what is active, as given to `use`; None for the bare backbone.
        routes: who owns what, once `route` was called.
    """

    def __init__(self, repository: Repository) -> None:
        """Loads the pinned backbone.

        Raises:
            BackboneError: it is missing, or not the pinned one.
            ObjectError: the coordinate map is missing or corrupt.
        """
        config = repository.config
        self._repository = repository
        self.backbone = load(pinned_source(repository), config.backbone.quant)
        self.skip = config.field.skip_tokens
        stored = read_tensors(repository.object_path(config.field.coordinates))
        part = {k.removeprefix("map."): v for k, v in stored.items() if k.startswith("map.")}
        sites = find_sites(self.backbone.model, config.field.tap_layer)
        self.adapter = FieldAdapter(self.backbone.model, sites, CoordinateMap.from_tensors(part))
        self.base_probe = stored["probe"]
        self.active: str | None = None
        self.routes: Routes | None = None
        self._resident: dict[str, ActiveField] = {}
        self._regions: dict[str, Region] = {}
        self._fields: dict[str, ActiveField] = {}

    def use(self, capability: str | None) -> None:
        """Makes a capability active; one that is resident takes no more than a lookup.

        Args:
            capability: `NAME` or `NAME@REV`, as committed when it is first used; None for the
                bare backbone.

        Raises:
            UnknownName: there is no such capability.
            ObjectError: an object is missing or corrupt.
        """
        if capability is not None and capability not in self._resident:
            (entry,) = self._repository.capability(capability).regions
            self._resident[capability] = self.field(entry)
        self.adapter.active = self._resident[capability] if capability is not None else None
        self.active = capability

    def route(self) -> Routes:
        """Lets the owner of each prompt's coordinate answer it, as HEAD's atlas has it (G3).

        Returns:
            Who owns what; its `names` tell whose each prompt of the last batch was.

        Raises:
            ObjectError: an object is missing or corrupt.
        """
        repository = self._repository
        there = stakes(repository, repository.atlas())
        router = Router(
            self.adapter.groups,
            base_cell(repository),
            [stake.claim for stake in there],
            lambda index: self.region(there[index].entry),
            lambda index: self.field(there[index].entry),
        )
        self.adapter.active, self.active = router, AUTO
        self.routes = Routes([stake.name for stake in there], router)
        return self.routes

    def bids(self, prompt: str) -> list[tuple[str | None, float | None]]:
        """(capability, score) of all that may answer a prompt, the owner first, None the base.

        The score is log N(z; μ, Σ) − b; None where the cell does not hold z, and no bid is made.
        """
        routes = self.route()
        found = routes.router.bids(self.coordinate(prompt)[None])[0].tolist()
        order = sorted(range(len(found)), key=lambda index: (-found[index], index))
        names = [None, *routes.claimants]
        return [
            (names[index], found[index] if math.isfinite(found[index]) else None) for index in order
        ]

    def owners(self, examples: Sequence[Example], batch_size: int = 8) -> list[str | None]:
        """The capability that owns each example's prompt, None where the base does."""
        routes, found = self.route(), []
        for batch in batched(examples, batch_size):
            self._read([prompt_tokens(self.backbone.tokenizer, one.messages) for one in batch])
            found += routes.names
        return found

    def region(self, entry: RegionEntry) -> Region:
        """A committed region on the model's device; it stays resident."""
        if entry.region.oid not in self._regions:
            self._regions[entry.region.oid] = load_region(
                self._repository, entry, self.backbone.model.device
            )
        return self._regions[entry.region.oid]

    def field(self, entry: RegionEntry) -> ActiveField:
        """The field of a committed region, ready to act."""
        if entry.region.oid not in self._fields:
            region = self.region(entry)
            self._fields[entry.region.oid] = ActiveField.of_region(self.adapter.groups, region)
        return self._fields[entry.region.oid]

    def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
        stream: Callable[[str], None] | None = None,
    ) -> str:
        """Answers a prompt with what is active, in one pass over the prompt.

        Args:
            prompt: the user's words, or a conversation that ends with them.
            max_new_tokens: longest answer.
            temperature: 0 takes the likeliest token each time.
            seed: of the sampling.
            stream: called with each new piece of text.

        Raises:
            UsageError: the prompt is empty, or longer than the backbone can read.
        """
        messages = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        relay = _Relay(self.backbone.tokenizer, stream) if stream else None
        if seed is not None:
            torch.manual_seed(seed)
        return self._answers([messages], max_new_tokens, temperature, relay)[0]

    def answers(
        self, examples: Sequence[Example], max_new_tokens: int = 256, batch_size: int = 8
    ) -> list[str]:
        """The likeliest answer to each example's prompt, in the order of the examples."""
        found: list[str] = []
        for batch in batched(examples, batch_size):
            prompts = [example.messages for example in batch]
            found += self._answers(prompts, max_new_tokens, 0.0, None)
        return found

    @torch.no_grad()
    def coordinate(self, prompt: str) -> Tensor:
        """z of a prompt, float32 [dim]."""
        self._read([prompt_tokens(self.backbone.tokenizer, [Message("user", prompt)])])
        return self.adapter.z[0].cpu()

    def score(self, examples: Sequence[Example], batch_size: int = 8) -> Score:
        """Perplexity on the answers' tokens, with what is active.

        Raises:
            DataError: an example is longer than the backbone can read.
        """
        return Scorer(self.adapter, self.skip).score(self.encode(examples), batch_size)

    def encode(self, examples: Sequence[Example]) -> list[Tokens]:
        """Examples as tokens.

        Raises:
            DataError: the template refuses one, or it is longer than the backbone can read.
        """
        rows = [encode(self.backbone.tokenizer, example) for example in examples]
        for example, row in zip(examples, rows, strict=True):
            if len(row) > self.longest:
                raise DataError(
                    f"{example.origin} has {len(row)} tokens, and the backbone reads "
                    f"{self.longest}: shorten it"
                )
        return rows

    @property
    def longest(self) -> int:
        """How many tokens the backbone can read."""
        return getattr(self.backbone.model.config, "max_position_embeddings", 1 << 30)

    @torch.no_grad()
    def _read(self, rows: Sequence[list[int]]) -> None:
        """Lets the adapter see prompts, and nothing else."""
        tokens = pad(rows).to(self.backbone.model.device)
        mask = prompt_mask([len(row) for row in rows], tokens.shape[1], self.skip)
        with self.adapter.prompts(mask.to(tokens.device)):
            self.backbone.model.get_decoder()(tokens, use_cache=False)

    @torch.no_grad()
    def _answers(
        self,
        prompts: Sequence[Sequence[Message]],
        max_new_tokens: int,
        temperature: float,
        streamer: TextStreamer | None,
    ) -> list[str]:
        tokenizer, model = self.backbone.tokenizer, self.backbone.model
        rows = [prompt_tokens(tokenizer, messages) for messages in prompts]
        if max(map(len, rows)) + max_new_tokens > self.longest:
            raise UsageError(
                f"the prompt has {max(map(len, rows))} tokens, and with --max-new-tokens "
                f"{max_new_tokens} that is more than the {self.longest} this backbone can read"
            )
        tokens = pad(rows, left=True).to(model.device)
        lengths = [len(row) for row in rows]
        width = tokens.shape[1]
        real = prompt_mask(lengths, width, 0, left=True).to(model.device)
        mask = prompt_mask(lengths, width, self.skip, left=True).to(model.device)
        options = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=temperature > 0,
            temperature=temperature if temperature > 0 else None,
            top_k=None,
            eos_token_id=_ends(self.backbone),
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        )
        with self.adapter.prompts(mask), quiet():
            output = model.generate(
                tokens, attention_mask=real.long(), generation_config=options, streamer=streamer
            )
        return [text.strip() for text in _texts(tokenizer, output[:, width:])]


def pinned_source(repository: Repository) -> Source:
    """Where the backbone that the repository pins is.

    $NIWFCTL_BACKBONE may say where on this machine; it must be the same one still.

    Raises:
        BackboneError: it is missing, or another one.
    """
    pinned = repository.config.backbone
    source = resolve(os.environ.get("NIWFCTL_BACKBONE") or pinned.model, pinned.revision)
    if source.identity != pinned.identity:
        raise BackboneError(
            f"{source.folder} is not the backbone this repository pins (it is {source.identity}, "
            f"pinned is {pinned.identity}): put the pinned one back, or say where it is with "
            "NIWFCTL_BACKBONE"
        )
    return source


def load_region(
    repository: Repository, entry: RegionEntry, device: torch.device | str = "cpu"
) -> Region:
    """A committed region, frozen, its bases on `device`; the generator computes on it too.

    Raises:
        ObjectError: an object is missing or corrupt, or not what the manifest takes it for.
    """
    bases = tuple(
        Basis.from_tensors({key: value.to(device) for key, value in _read(repository, ref).items()})
        for ref in entry.bases
    )
    tensors = _read(repository, entry.region)
    try:
        region = Region.from_tensors(tensors, bases, entry.scale, entry.layers)
        fits = _fits_together(region)
    except (KeyError, RuntimeError) as error:
        raise _misfit(entry) from error
    if not fits:
        raise _misfit(entry)
    region.generator.to(device)
    return region


def _fits_together(region: Region) -> bool:
    """Whether the objects that a manifest names are a region and its bases."""
    sites = region.bases[0].down.keys()
    gates = (len(region.layers), len(region.bases))
    return (
        {int(name.split(".")[1]) for name in sites} == set(region.layers)
        and all(sites == basis.down.keys() == basis.up.keys() for basis in region.bases)
        and (region.generator.layers, region.generator.bases) == gates
        and region.snapshot.shape[1:] == gates
    )


def _misfit(entry: RegionEntry) -> ObjectError:
    return ObjectError(
        f"the objects of region {entry.id} do not belong together: its manifest was changed by "
        "hand; bring it back with `niwfctl rollback`"
    )


def _read(repository: Repository, ref: ObjectRef) -> dict[str, Tensor]:
    return read_tensors(repository.object_path(ref.oid, ref.size))


def _ends(backbone: Backbone) -> list[int]:
    own = backbone.model.generation_config.eos_token_id
    ends = {backbone.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    return sorted(end for end in ends if end is not None)


def _texts(tokenizer: PreTrainedTokenizerBase, output: Tensor) -> list[str]:
    return tokenizer.batch_decode(output, skip_special_tokens=True)


class _Relay(TextStreamer):
    """Hands each finished piece of text on."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, hand_on: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._hand_on = hand_on

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._hand_on(text)
