"""Where a field acts in a model: the decoder layers and their linears, found by structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from niwfctl.errors import BackboneError
from niwfctl.field.basis import Site

SiteGroup = tuple[Site, ...]


def width(model: nn.Module) -> int:
    """Size of the states that the layers of a Hugging Face model hand on."""
    return model.config.get_text_config().hidden_size


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of a Hugging Face causal language model.

    Raises:
        BackboneError: the decoder has no list of `layers`.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise BackboneError(
            f"{type(model).__name__} is not supported: expected a causal language model whose "
            "decoder has a list of layers, such as Llama, Mistral, Qwen or Gemma"
        )
    return layers


def decoder_path(model: nn.Module) -> str:
    """The path of the decoder in a model: `model` in most."""
    decoder = model.get_decoder()
    return next(path for path, module in model.named_modules() if module is decoder)


def find_sites(model: nn.Module, tap_layer: int) -> list[Site]:
    """Every linear of every layer at or above the tap layer, in the model's own order.

    Args:
        tap_layer: index k of the first adapted layer, 1 to the number of layers − 1.

    Raises:
        BackboneError: `tap_layer` is out of range, or the layers have no linears.
    """
    layers = decoder_layers(model)
    if not 1 <= tap_layer < len(layers):
        raise BackboneError(
            f"tap layer {tap_layer} is out of range: this backbone has {len(layers)} layers, "
            f"choose 1 to {len(layers) - 1}"
        )
    sites = [
        Site(index, path, module.in_features, module.out_features)
        for index in range(tap_layer, len(layers))
        for path, module in layers[index].named_modules()
        if isinstance(module, nn.Linear)
    ]
    if not sites:
        raise BackboneError(f"{type(model).__name__} has no linears to adapt in its layers")
    return sites


def linears(model: nn.Module, sites: Sequence[Site]) -> list[nn.Linear]:
    """The module at each site."""
    layers = decoder_layers(model)
    return [layers[site.layer].get_submodule(site.module) for site in sites]


def shared_inputs(model: nn.Module, sites: Sequence[Site]) -> list[SiteGroup]:
    """Sites grouped by the tensor they read (queries, keys and values read the same one).

    Found by watching one forward pass of a single token, so it holds for any architecture.
    """
    groups: dict[int, list[Site]] = {}
    seen: list[torch.Tensor] = []  # keeps every input alive, so that ids stay unique

    def watching(site: Site) -> Callable[[nn.Module, tuple], None]:
        def watch(module: nn.Module, args: tuple) -> None:
            seen.append(args[0])
            groups.setdefault(id(args[0]), []).append(site)

        return watch

    handles = [
        linear.register_forward_pre_hook(watching(site))
        for site, linear in zip(sites, linears(model, sites), strict=True)
    ]
    try:
        with torch.no_grad():
            model.get_decoder()(torch.zeros(1, 1, dtype=torch.long, device=model.device))
    finally:
        for handle in handles:
            handle.remove()
    return [tuple(group) for group in groups.values()]
