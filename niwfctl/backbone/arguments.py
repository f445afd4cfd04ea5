"""Arguments of a chat template, such as `enable_thinking`, fixed for good."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from niwfctl.backbone.template import own_template
from niwfctl.errors import BackboneError, UsageError

Argument = bool | int | float | str
# What transformers gives every template, besides special tokens by their names.
_GIVEN = {"messages", "tools", "documents", "add_generation_prompt"}
_GIVEN |= {"raise_exception", "strftime_now"}
_OPTIONAL = {"defined", "undefined", "default", "d"}  # tests and filters of what may be missing
_GENERATION = re.compile(r"{%-?\s*(?:end)?generation\s*-?%}")  # transformers' own tag


def pin(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Argument]) -> None:
    """Sets arguments at the head of a tokenizer's chat template.

    So they hold wherever the template is used, and are saved with it; a caller cannot change them.

    Args:
        arguments: those the template takes, by name; without any, it stays as it is.

    Raises:
        UsageError: the template has no such argument, or a value cannot be one.
        BackboneError: the template cannot be read.
    """
    if not arguments:
        return
    template = own_template(tokenizer) or ""
    known = sorted(_parameters(template) - _GIVEN - set(tokenizer.SPECIAL_TOKENS_ATTRIBUTES))
    for name, value in arguments.items():
        if name not in known:
            raise UsageError(
                f"the backbone's chat template takes no argument {name!r}: it takes "
                f"{', '.join(known) or 'none'}"
            )
        if not _is_value(value):
            raise UsageError(
                f"the chat template's argument {name} cannot be {value!r}: give true, false, a "
                "number or a text"
            )
    tokenizer.chat_template = head(arguments) + template


def head(arguments: Mapping[str, Argument]) -> str:
    """What stands before a template whose arguments are fixed.

    It ends with a line break, which Jinja as transformers sets it up drops, so that the template
    itself still begins a line.
    """
    settings = (
        f"{{% set {name} = {json.dumps(value, ensure_ascii=False)} %}}\n"
        for name, value in arguments.items()
    )
    return "".join(settings)


def _parameters(template: str) -> set[str]:
    """The names that a template reads and does not define, or only where they are not given."""
    from jinja2 import Environment, TemplateError, nodes
    from jinja2.meta import find_undeclared_variables

    environment = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False)
    try:
        tree = environment.parse(_GENERATION.sub("", template))
    except TemplateError as error:
        raise BackboneError(
            f"the backbone's chat template cannot be read ({error}): init without --template-arg"
        ) from error
    names = list(tree.find_all(nodes.Name))
    defined = {name.name for name in names if name.ctx != "load"}
    asked = [*tree.find_all(nodes.Test), *tree.find_all(nodes.Filter)]
    optional = {
        one.node.name for one in asked if one.name in _OPTIONAL and isinstance(one.node, nodes.Name)
    }
    return find_undeclared_variables(tree) - (defined - optional)


def _is_value(value: object) -> bool:
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
