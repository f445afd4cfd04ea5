"""The coordinate map of a backbone, from the packaged calibration prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files

import torch
from torch import Tensor, nn

from niwfctl.backbone.batch import by_length, pad, prompt_mask
from niwfctl.backbone.load import Backbone
from niwfctl.backbone.prompts import common_prefix, prompt_tokens
from niwfctl.backbone.sites import decoder_layers
from niwfctl.errors import BackboneError, UsageError
from niwfctl.field.cell import Cell
from niwfctl.field.coordinates import CoordinateMap, pool
from niwfctl.records import Message

BATCH = 16
LONGEST = 256  # tokens read of a calibration prompt


def calibration_prompts() -> list[str]:
    """The packaged prompts: broad, written for this project, in a fixed order."""
    text = files("niwfctl.backbone").joinpath("calibration.jsonl").read_text("utf-8")
    return [json.loads(line)["prompt"] for line in text.splitlines()]


def default_tap_layer(backbone: Backbone) -> int:
    """An eighth of the way up the layers.

    There prompts of different kinds already lie well apart. A higher tap makes training faster but
    leaves a little less to learn with.
    """
    return max(1, -(-len(decoder_layers(backbone.model)) // 8))


def default_dim(backbone: Backbone) -> int:
    """128, or half the width of a narrow backbone."""
    return min(128, backbone.width // 2)


@dataclass(frozen=True)
class Calibration:
    """The geometry that all regions of a repository share.

    Attributes:
        coordinates: the map.
        base: the cell of general prompts.
        anchors: their coordinates, float32 [prompts, dim].
        scores: their log-densities by cells that were fitted without them, float64 [prompts].
        skip: how many leading tokens are left out of the mean.
    """

    coordinates: CoordinateMap
    base: Cell
    anchors: Tensor
    scores: Tensor
    skip: int

    def tensors(self) -> dict[str, Tensor]:
        """Everything except `skip`, for sealing: `map.…` and `base.…`."""
        base = self.base.tensors() | {"anchors": self.anchors, "scores": self.scores}
        return {f"map.{key}": value for key, value in self.coordinates.tensors().items()} | {
            f"base.{key}": value for key, value in base.items()
        }


def calibrate(
    backbone: Backbone, tap_layer: int, dim: int, progress: Callable[[int, int], None]
) -> Calibration:
    """Fits the coordinate map and the base's own cell.

    Args:
        tap_layer: index of the decoder layer whose input is read.
        dim: number of coordinates d.
        progress: called with (prompts done, all prompts).

    Raises:
        UsageError: `dim` is out of range.
        BackboneError: its tokenizer has tokens that the model does not know.
    """
    rows = [
        prompt_tokens(backbone.tokenizer, [Message("user", prompt)])[:LONGEST]
        for prompt in calibration_prompts()
    ]
    _require_embedded(backbone, rows)
    skip = common_prefix(rows)
    states = torch.empty(len(rows), backbone.width, dtype=torch.float32)
    done = 0
    for places in by_length(rows, BATCH):
        batch = [rows[place] for place in places]
        states[places] = pooled(backbone.model, tap_layer, batch, skip)
        done += len(places)
        progress(done, len(rows))
    try:
        coordinates = CoordinateMap.fit(states, dim)
    except ValueError as error:
        raise UsageError(f"--dim is out of range: {error}") from error
    z = coordinates(states)
    base, scores = Cell.cross_fit(z)
    return Calibration(coordinates, base, z, scores, skip)


def _require_embedded(backbone: Backbone, rows: Sequence[list[int]]) -> None:
    """Requires a vocabulary that fits: on a GPU, a token beyond it breaks the whole process.

    Tokens that were added to a tokenizer and occur in no prompt do no harm.
    """
    known = backbone.model.get_input_embeddings().num_embeddings
    last = max(backbone.tokenizer.vocab_size - 1, max(map(max, rows)))
    if last >= known:
        raise BackboneError(
            f"the tokenizer has a token {last} ({backbone.tokenizer.convert_ids_to_tokens(last)!r})"
            f", but the model knows only {known}: use the tokenizer that belongs to it, or enlarge "
            "the model with transformers' `resize_token_embeddings` and save both"
        )


class _TapReached(Exception):
    """Ends a forward pass at the tap layer."""


@contextmanager
def _stopping_at(layer: nn.Module) -> Iterator[list[Tensor]]:
    states: list[Tensor] = []

    def stop(module: nn.Module, args: tuple, kwargs: dict) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])
        raise _TapReached

    # before any other hook: an adapter's own would ask for the prompts of an active field
    handle = layer.register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
    try:
        yield states
    except _TapReached:
        pass
    finally:
        handle.remove()


@torch.no_grad()
def pooled(
    model: nn.Module, tap_layer: int, rows: Sequence[list[int]], skip: int | Sequence[int]
) -> Tensor:
    """Mean states entering the tap layer, float32 [rows, hidden]; the layers above do not run.

    Args:
        rows: tokens of prompts.
        skip: leading tokens to leave out, one number for all rows or one each.

    Raises:
        BackboneError: the layers pass on something other than one state per token.
    """
    tokens = pad(rows).to(model.device)
    mask = prompt_mask([len(row) for row in rows], tokens.shape[1], skip).to(model.device)
    with _stopping_at(decoder_layers(model)[tap_layer]) as states:
        model.get_decoder()(tokens, use_cache=False)
    if states[0].dim() != 3:  # several streams of states, as in Gemma 3n
        raise BackboneError(
            f"{type(model).__name__} is not supported: its layers do not read one state per token, "
            "[rows, tokens, width]"
        )
    return pool(states[0], mask).cpu()
