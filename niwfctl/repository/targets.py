"""Which modules an adapter's config names: PEFT leaves weights of all others out, unsaid. No torch.

As `check_target_module_exists` of PEFT decides it, for linears of decoder layers.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from niwfctl.errors import FormatError

if TYPE_CHECKING:
    from niwfctl.repository.adapters import AdapterConfig

_ALL = "all-linear"
_ANY_LIST = r".*?\.[^.]*"  # of layers, where no `layers_pattern` names it
_MATCH = """
import json, re, sys
expression, modules = json.load(sys.stdin)
json.dump([module for module in modules if re.fullmatch(expression, module)], sys.stdout)
"""
_SECONDS = 60  # for all modules; only an expression that is made for it takes longer


def require_named(folder: Path, config: AdapterConfig, modules: Iterable[str]) -> None:
    """Checks that an adapter's config names all modules that its weights change.

    Args:
        folder: of the adapter, for messages.
        modules: paths of linears in decoder layers, in the model.

    Raises:
        FormatError: it does not, or it names them by an expression that cannot be matched.
    """
    modules = list(modules)
    targets, excluded = config.target_modules or "", config.exclude_modules
    if isinstance(targets, str):
        everything = targets.lower() == _ALL
        named = set(modules) if everything else _fitting(folder, targets, modules)
    else:  # a whole path is named whatever its layer is
        named = {
            module
            for module in _fitting(folder, targets, modules)
            if module in targets or _in_layers(config, module)
        }
    if excluded:
        named -= _fitting(folder, excluded, modules)
    if strange := [module for module in modules if module not in named]:
        raise FormatError(
            f"{folder} changes {strange[0]}, which its adapter_config.json does not name "
            "(target_modules, exclude_modules, layers_to_transform), so PEFT would leave the "
            "change out: let PEFT save the adapter again, or correct these entries"
        )


def _fitting(folder: Path, entry: str | frozenset[str], modules: list[str]) -> set[str]:
    """The modules that an expression matches, or whose paths end with a name that is listed."""
    if isinstance(entry, str):
        return _matched(folder, entry, modules)
    return {module for module in modules if not entry.isdisjoint(_ends(module))}


def _ends(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[start:]) for start in range(len(parts)))


def _matched(folder: Path, expression: str, modules: list[str]) -> set[str]:
    """Matched in a process of its own, since some expressions would take forever."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _MATCH],
            input=json.dumps([expression, modules]),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise FormatError(
            f"{folder} names its modules by {expression[:60]!r}, which Python cannot match to "
            "them: list their names in target_modules and exclude_modules of its "
            "adapter_config.json"
        ) from error
    return set(json.loads(done.stdout))


def _in_layers(config: AdapterConfig, module: str) -> bool:
    layers, patterns = config.layers_to_transform, config.layers_pattern
    if layers is None or layers == frozenset():
        return True
    named = (patterns,) if isinstance(patterns, str) and patterns else patterns
    lists = [rf"(?:^|.*?\.){pattern}" for pattern in named or ()] or [_ANY_LIST]
    found = (re.match(rf"{one}\.(?P<layer>\d+)\.", module) for one in lists)
    layer = next((int(match["layer"]) for match in found if match), None)
    return layer in ({layers} if isinstance(layers, int) else layers)
