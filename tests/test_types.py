"""What a type checker says of programs that use the library, without plugins of pydantic."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
from niwfctl import Message, Recipe, Repository, Resolution, RoutingOptions, TrainingOptions
from niwfctl.atlas import Terms
from niwfctl.config import Gate, RoutingConfig

TrainingOptions()
TrainingOptions(steps=10, val_split=0.2)
RoutingOptions(accept_shadow=True)
Recipe(weights=(0.7, 0.3))
Resolution(side="theirs")
RoutingConfig()
Gate(data="held-out.jsonl", max_perplexity=3.0)
Terms(order=0)


def asked(repository: Repository) -> str:
    with repository.load("plurals") as model:
        return model.generate([Message("user", "Plural of tiger?")], max_new_tokens=8)
"""
# Packages that are large, and in no signature above: reading them would take minutes.
LARGE = "torch transformers tokenizers numpy git matplotlib pyarrow huggingface_hub rich typer"


def test_a_program_that_names_only_some_options_has_the_right_types(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program, settings = tmp_path / "program.py", tmp_path / "mypy.ini"
    program.write_text(PROGRAM)
    skipped = ",".join(f"{name}.*" for name in LARGE.split())
    settings.write_text(
        f"[mypy]\nfollow_imports = silent\n[mypy-{skipped}]\nfollow_imports = skip\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", settings]
    command += ["--cache-dir", tmp_path / "cache", ROOT / "examples" / "api.py", program]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": f"{ROOT}:{ROOT / 'store'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
