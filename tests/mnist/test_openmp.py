"""OpenMP's threads: what the train stage sets before torch loads them."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
class Watch:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
sys.meta_path.insert(0, Watch())
import pipeline.stages.train
"""


@pytest.mark.parametrize("chosen", [None, "5"])
def test_the_train_stage_sets_it_before_torch_unless_a_person_has(chosen: str | None) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if chosen:
        variables["GOMP_SPINCOUNT"] = chosen
    command = [sys.executable, "-c", PROGRAM]
    seen = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout
    if chosen:
        assert seen == f"{chosen}\n"
    else:
        assert 0 < int(seen) < 10_000
