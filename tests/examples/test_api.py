"""The API example is run as its reader would run it, on the embedded backbone."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "api.py"


def test_the_example_trains_commits_answers_and_verifies(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLE, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "ok plurals logits probe logits equal bit for bit" in done.stdout
