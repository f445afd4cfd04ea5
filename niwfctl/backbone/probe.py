"""Probes: logits of fixed token sequences, which witness what a model computes."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from niwfctl.backbone.adapter import FieldAdapter
from niwfctl.backbone.platform import COMPUTE, current_platform
from niwfctl.backbone.quantized import noted_compute, noted_copy
from niwfctl.field.precision import full_precision
from niwfctl.records import Platform, Witness

SEQUENCES, LENGTH = 4, 24
SAMPLED = 256  # logits of each sequence that are kept, to compare on another platform
SEED = 0x4E495746


@dataclass(frozen=True)
class Probe:
    """The logits of the probes, as a digest and a sample.

    Attributes:
        digest: `sha256:…` over all logits, float32.
        sample: some logits of each sequence's last token, float32 [sequences, ≤ 256].
    """

    digest: str
    sample: Tensor

    def deviation(self, other: Probe) -> float:
        """Root mean square difference of sampled logits, in standard deviations of this one's.

        The mean of each sequence's logits is taken off first: a constant added to all of them
        changes no probability, and is most of the difference between kernels. Infinite if the sizes
        of the samples differ: one of them is of another backbone.
        """
        if self.sample.shape != other.sample.shape:
            return math.inf
        mine, others = (one.sample - one.sample.mean(-1, keepdim=True) for one in (self, other))
        return float((mine - others).square().mean().sqrt() / mine.std())


def witnessed(adapter: FieldAdapter) -> tuple[Witness, Tensor]:
    """Takes a witness of the active field, to prove later that it is unchanged.

    Returns:
        The witness, and the sample to keep with it, for other platforms.
    """
    found = probe(adapter)
    return Witness(digest=found.digest, platform=logits_platform(adapter)), found.sample


def logits_platform(adapter: FieldAdapter) -> Platform:
    """Everything that the bits of a model's logits may depend on here."""
    nf4 = getattr(adapter.model, "is_loaded_in_4bit", False)
    packages = ("transformers", "bitsandbytes") if nf4 else ("transformers",)
    platform = current_platform(adapter.model.device, *packages)
    noted = {"weights": noted_copy(adapter.model), COMPUTE: noted_compute(adapter.model)}
    return platform | {key: value for key, value in noted.items() if value}


def probe_tokens(vocabulary: int, seed: int = SEED) -> Tensor:
    """Pseudo-random sequences, fixed by their seed, int64 [sequences, length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (SEQUENCES, LENGTH), generator=generator)


@torch.no_grad()
@full_precision()
def probe(adapter: FieldAdapter, seed: int = SEED) -> Probe:
    """Computes the probes with the active field."""
    model = adapter.model
    tokens = probe_tokens(model.config.get_text_config().vocab_size, seed).to(model.device)
    with adapter.prompts(torch.ones(tokens.shape, dtype=torch.bool)):
        logits = model(tokens, use_cache=False).logits.float().cpu().contiguous()
    digest = hashlib.sha256(memoryview(logits.numpy()).cast("B")).hexdigest()
    step = -(-logits.shape[-1] // SAMPLED)
    return Probe(f"sha256:{digest}", logits[:, -1, ::step].contiguous())
