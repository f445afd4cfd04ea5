"""Programs that draw at random after they have set a seed."""

from pathlib import Path

import torch
from conftest import QUICK

from niwfctl.repository import Repository
from niwfctl.repository.commit import RoutingOptions

MANUAL = RoutingOptions(manual=True)


def test_what_a_program_draws_does_not_depend_on_what_the_library_did_before(
    trained: Repository, tmp_path: Path, data: Path
) -> None:
    before = torch.get_rng_state()

    def require_untouched(did: str) -> None:
        assert torch.equal(torch.get_rng_state(), before), did

    trained.commit("apple", "Apples", MANUAL)
    require_untouched("commit")
    with trained.load("apple") as model:
        require_untouched("load")
        model.generate("Say apple 3.", max_new_tokens=3, temperature=1.0)
        model.route()
        model.answers(["Say apple 3."], 3)
        require_untouched("answer")
    trained.train("pear", data, QUICK)
    require_untouched("train")
    trained.export("apple", tmp_path / "lora", data=data)
    require_untouched("export")
    trained.import_adapter(tmp_path / "lora", "plum", data, routing=MANUAL)
    require_untouched("import")
    trained.compose(["apple", "plum"], "jam")
    require_untouched("compose")
    assert trained.verify(deep=True).ok
    require_untouched("verify")
    trained.compare("apple", "plum")
    require_untouched("compare")
