"""What training keeps for the gradient on Mistral-7B, computed from the shapes of its tensors.

python benchmarks/activations.py
"""

from __future__ import annotations

import torch
from common import markdown, write_results
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, MistralConfig

from niwfctl.backbone.adapter import ActiveField, FieldAdapter
from niwfctl.backbone.recompute import recompute_layers
from niwfctl.backbone.sites import find_sites
from niwfctl.field.basis import Basis
from niwfctl.field.coordinates import CoordinateMap
from niwfctl.field.generator import Generator

CONFIG = MistralConfig(sliding_window=None)  # of 7B, as from v0.2 on
TAP, DIM, RANK, BASES = 4, 128, 8, 2  # as by default
BATCHES = [(8, 512), (4, 512), (2, 1024), (1, 1024)]  # rows × tokens; the first is the default


def main() -> None:
    found = [
        {"rows": rows, "tokens": tokens, "checkpointing": again, "bytes": kept(rows, tokens, again)}
        for again in (False, True)
        for rows, tokens in BATCHES
    ]
    adapted = CONFIG.num_hidden_layers - TAP
    table = markdown(
        [
            "rows × tokens",
            "`--gradient-checkpointing`",
            "GiB",
            "MiB a token",
            "KiB a token and layer",
        ],
        [
            [
                f"{one['rows']} × {one['tokens']}",
                "yes" if one["checkpointing"] else "no",
                f"{one['bytes'] / 2**30:.1f}",
                f"{(of_token := one['bytes'] / one['rows'] / one['tokens']) / 2**20:.2f}",
                f"{of_token / adapted / 2**10:.1f}",
            ]
            for one in found
        ],
    )
    table += (
        f"\n\nActivations of {adapted} adapted layers, with {BASES} bases of rank {RANK}, in bf16; "
        "without weights, gradients, moments, logits and what a layer takes while it computes. "
        "Computed from shapes, not measured."
    )
    write_results("activations", {"kept": found}, table)


def kept(rows: int, tokens: int, again: bool) -> int:
    """Bytes that one forward pass keeps, beside the parameters."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        adapter = with_new_field()
        if again:
            recompute_layers(adapter)
        parameters = {place(one) for one in adapter.model.parameters()}
        parameters |= {place(one) for one in adapter.active.factors.down}
        parameters |= {place(one) for one in adapter.active.factors.up.values()}
        storages: dict[int, torch.UntypedStorage] = {}  # kept alive, so that places stay unique

        def note(tensor: Tensor) -> Tensor:
            if place(tensor) not in parameters:
                storages[place(tensor)] = tensor.untyped_storage()
            return tensor

        mask = torch.ones(rows, tokens, dtype=torch.bool)
        with saved_tensors_hooks(note, lambda tensor: tensor), adapter.prompts(mask):
            states = adapter.model.get_decoder()(mask.long(), use_cache=False)
        del states
        return sum(storage.nbytes() for storage in storages.values())


def with_new_field() -> FieldAdapter:
    """A model with a field as in the first step of a training."""
    model = AutoModelForCausalLM.from_config(CONFIG, dtype=torch.bfloat16).eval()
    sites, width = find_sites(model, TAP), CONFIG.hidden_size
    zero = CoordinateMap(torch.zeros(width), torch.zeros(DIM, width))
    adapter = FieldAdapter(model, sites, zero)
    bases = [Basis.initial(sites, RANK, torch.Generator()) for _ in range(BASES)]
    for basis in bases:
        for tensor in basis.tensors().values():
            tensor.requires_grad_(True)
    generator = Generator(DIM, len(adapter.layers), BASES)
    cast = [basis.to(dtype=torch.bfloat16) for basis in bases]
    adapter.active = ActiveField.of(adapter.groups, cast, generator, 2.0)
    return adapter


def place(tensor: Tensor) -> int:
    """What tells one tensor's memory from another's."""
    return tensor.untyped_storage()._cdata


if __name__ == "__main__":
    main()
