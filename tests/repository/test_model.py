"""The loaded backbone: what it reads, and what it keeps."""

import torch

from niwfctl.backbone.batch import pad, prompt_mask
from niwfctl.backbone.prompts import prompt_tokens
from niwfctl.backbone.sites import decoder_layers
from niwfctl.records import Message
from niwfctl.repository import Repository
from niwfctl.repository.model import Model

PROMPTS = ["Say apple 3.", "?", "zzz qqq plum 5."]


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
