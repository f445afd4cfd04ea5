"""The harness of docs/other-tools.md; where lm-eval is not installed, on what it would call."""

import json
import math
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from niwfctl.records import Example, Message
from niwfctl.repository import Repository

PAGE = Path(__file__).parents[2] / "docs" / "other-tools.md"


def test_a_harness_measures_what_the_model_does(
    committed: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = ModuleType("lm_eval.api.model")
    library.LM = object
    monkeypatch.setitem(sys.modules, library.__name__, library)
    (code,) = re.findall(r"(?ms)^```python\n(.*?)^```", PAGE.read_text("utf-8"))
    names: dict[str, object] = {}
    exec(compile(code, PAGE, "exec"), names)
    asked = [Message("system", "Be brief."), Message("user", "Say apple 3.")]
    with committed.load("apple") as model:
        harness = names["Capabilities"](model)
        context = harness.apply_chat_template([vars(turn) for turn in asked])
        assert isinstance(context, str) and json.loads(context)
        requests = [SimpleNamespace(args=(context, f" {word}")) for word in ("apple", "a pear")]
        found = harness.loglikelihood(requests)
        for (loss, likeliest), word in zip(found, ("apple", "a pear"), strict=True):
            alone = model.score([Example(tuple(asked), word)])
            assert loss == pytest.approx(-alone.losses.item(), rel=1e-2) and likeliest is False
            assert math.log(alone.perplexity) * alone.tokens == pytest.approx(-loss, rel=1e-2)
        how = {"until": ["\n"], "max_gen_toks": 4}
        answer = model.generate(asked, max_new_tokens=4, stop="\n")
        request = SimpleNamespace(args=(context, how))
        assert harness.generate_until([request, request]) == [answer] * 2
