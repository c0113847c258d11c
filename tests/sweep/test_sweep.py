"""Which combinations there are, and how their runs end.

The graph is a toy, which gives its validation accuracy without training anything.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from prefect_api import Api, finish
from ruamel.yaml import YAML
from toy import (
    append,
    commit_all,
    execute,
    make_model_workspace,
    processes_under,
    start_pipeline,
    wait_until,
)

from pipeline.errors import ParamsError
from pipeline.sweep.sweep import expand_grid, share_cores

# The accuracy is the rate. With a size of 0 the stage fails.
TRAIN = """
from ruamel.yaml import YAML
from pathlib import Path
train = YAML().load(Path("params.yaml"))["train"]
if not train["size"]:
    raise SystemExit(2)
Path("reports").mkdir(exist_ok=True)
Path("reports/history.csv").write_text(f"epoch,validation_accuracy\\n1,{train['rate']}\\n")
"""

STAGES = {
    "train": {
        "cmd": "python train.py",
        "deps": ["train.py"],
        "params": ["train.rate", "train.size"],
        "plots": [{"reports/history.csv": {"cache": False}}],
    },
    "test": {"cmd": "echo read > test.txt", "deps": ["reports/history.csv"], "outs": ["test.txt"]},
}
GATE = {"metric": "accuracy", "minimum": 0.8, "largest_drop": 0, "significance": 0.05}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    folder.mkdir()
    contents: dict[str, Any] = {
        "dvc.yaml": {"stages": STAGES},
        "params.yaml": {"train": {"rate": 0.5, "size": 1}, "gate": GATE},
    }
    for name, content in contents.items():
        with (folder / name).open("w", encoding="utf-8") as file:
            YAML().dump(content, file)
    (folder / "train.py").write_text(TRAIN)
    (folder / ".gitignore").write_text("/sweeps/\n")
    execute(folder, "git", "init", "--quiet")
    execute(folder, "dvc", "init", "--quiet")
    commit_all(folder)
    return folder


def test_combinations_are_the_product_of_the_values_read_as_yaml() -> None:
    assert expand_grid(["train.rate=1e-3, 2", "train.keep=best,last", "a.b=[1, 2]"]) == [
        {"train.rate": rate, "train.keep": keep, "a.b": [1, 2]}
        for rate in (0.001, 2)
        for keep in ("best", "last")
    ]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            ["train.seed="],
            "--set train.seed: must list different values, such as train.seed=1,2, got []",
        ),
        (
            ["train.seed=1,2,1"],
            "--set train.seed: must list different values, such as train.seed=1,2, got [1, 2, 1]",
        ),
        (
            ["train.seed=1", "train.seed=2"],
            "--set train.seed=[2]: train.seed is set twice; set it once",
        ),
        (
            [
                "a.b=1,2,3,4,5,6,7,8,9,10,11",
                "c.d=" + "1,2,3,4,5,6,7,8,9,0",
                "e.f=1,2,3,4,5,6,7,8,9,0",
            ],
            "--set makes 1,100",
        ),
    ],
)
def test_a_wrong_list_of_values_is_refused_in_one_line(settings: list[str], reason: str) -> None:
    with pytest.raises(ParamsError) as raised:
        expand_grid(settings)
    assert str(raised.value).startswith(reason)


SHARE_OF_TWO = str(max(1, (psutil.cpu_count(logical=False) or 1) // 2))


@pytest.mark.parametrize(
    ("jobs", "before", "after"), [(1, None, None), (2, None, SHARE_OF_TWO), (2, "3", "3")]
)
def test_the_share_of_the_cores_is_for_several_jobs_and_what_a_person_has_set_stays(
    monkeypatch: pytest.MonkeyPatch, jobs: int, before: str | None, after: str | None
) -> None:
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": before} if before else {})
    share_cores(jobs)
    assert os.environ.get("OMP_NUM_THREADS") == after


def test_trainings_at_once_share_the_cores(
    toy: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(toy / "train.py", "import os\nprint('threads:', os.environ.get('OMP_NUM_THREADS'))\n")
    commit_all(toy)
    monkeypatch.delenv("OMP_NUM_THREADS")
    sweep = ("sweep", "--set", "train.rate=0.6,0.7", "--jobs", "2")
    output = finish(start_pipeline(toy, api.url, *sweep))
    assert re.findall(r"threads: (\w+)", output) == [SHARE_OF_TWO] * 2


@pytest.mark.slow
def test_the_best_is_first_and_a_failed_combination_stops_no_other(toy: Path, api: Api) -> None:
    before = execute(toy, "git", "status", "--porcelain")
    output = finish(
        start_pipeline(
            toy, api.url, "sweep", "--set", "train.rate=0.5,0.9", "--set", "train.size=1,0"
        )
    )
    flow_run = api.runs(parent_task_run_id={"is_null_": True})[0]
    [table] = toy.glob("sweeps/*/combinations.csv")
    rows = pd.read_csv(table)
    assert list(rows["train.rate"]) == [0.9, 0.5, 0.5, 0.9]
    assert list(rows["train.size"]) == [1, 1, 0, 0]
    assert list(rows["state"]) == ["Completed", "Completed", "Failed", "Failed"]
    assert all(rows["message"][2:].str.startswith("train failed: exit code 2"))
    assert (
        "2 of 4 combinations; the best: train.rate 0.9, train.size 1: validation accuracy 90.00%"
        in output
    )
    assert (table.parent / "combinations.svg").read_bytes().count(b"<path") > 2

    children = api.runs(parent_flow_run_id={"any_": [flow_run["id"]]})
    assert sorted((run["name"], run["state"]["name"]) for run in children) == [
        ("train.rate 0.5, train.size 0", "Failed"),
        ("train.rate 0.5, train.size 1", "Completed"),
        ("train.rate 0.9, train.size 0", "Failed"),
        ("train.rate 0.9, train.size 1", "Completed"),
    ]
    assert all(list(api.tasks(run)) == ["train"] for run in children), "no test split is read"
    assert {"combinations", "coordinates", "progress"} <= api.artifacts(flow_run).keys()
    assert execute(toy, "git", "status", "--porcelain") == before

    finish(
        start_pipeline(
            toy, api.url, "sweep", "--set", "train.rate=0.5,0.9", "--set", "train.size=1,0"
        )
    )
    assert list(pd.read_csv(table)["state"]) == ["Restored", "Restored", "Failed", "Failed"]


# At the end of a stage
WAITING = """
from time import sleep
Path({reached!r}).touch()
while not Path({go!r}).exists():
    sleep(0.05)
"""


@pytest.mark.slow
def test_a_sweep_that_is_cancelled_while_it_retrains_publishes_nothing(
    tmp_path: Path, api: Api
) -> None:
    """The sweep is cancelled on Prefect's page; its retraining is another flow run."""
    folder = make_model_workspace(tmp_path / "model")
    reached, go = tmp_path / "reached", tmp_path / "go"
    append(folder / "evaluate.py", WAITING.format(reached=str(reached), go=str(go)))
    commit_all(folder)
    before = execute(folder, "git", "for-each-ref")
    arguments = ("--set", "train.skill=150,170", "--publish", "champion")
    process = start_pipeline(folder, api.url, "sweep", *arguments)
    wait_until(reached.exists)
    sweep_run = api.runs(parent_task_run_id={"is_null_": True})[0]
    cancelling = {"state": {"type": "CANCELLING"}, "force": False}
    api.post(f"flow_runs/{sweep_run['id']}/set_state", cancelling)
    try:
        output, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        go.touch()  # a retraining that was not cancelled ends now, and publishes
        output = finish(process)
    assert execute(folder, "git", "for-each-ref") == before, output
    assert process.returncode == 1
    assert not go.exists()
    assert api.ended(sweep_run)["state"]["name"] == "Cancelled"
    children = api.runs(parent_flow_run_id={"any_": [sweep_run["id"]]})
    states = {run["name"]: run["state"]["name"] for run in children}
    assert states.pop("train.skill 150") == states.pop("train.skill 170") == "Completed"
    assert list(states.values()) == ["Cancelled"]
    wait_until(lambda: not processes_under(tmp_path))
    assert [path.name for path in (folder / ".dvc" / "tmp" / "worktrees").iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["--set", "train.lr=1,2"],
            "--set train.lr=1: params.yaml has no parameter train.lr; it has train.rate,"
            " train.size",
        ),
        (
            ["--set", "train.rate=1", "--rev", "nowhere"],
            "nowhere is no commit here; name one that git log shows",
        ),
        (["--set", "train.rate=1", "--jobs", "0"], "argument --jobs: must be 1 or more, got 0"),
        (
            ["--set", "train.rate=1", "--dask"],
            "workers clone from the Git remote origin, which is not set; git remote add it",
        ),
    ],
)
def test_a_sweep_that_cannot_run_is_refused_in_one_line(
    toy: Path, api: Api, arguments: list[str], reason: str
) -> None:
    process = start_pipeline(toy, api.url, "sweep", *arguments)
    assert reason in finish(process)
    assert process.returncode != 0
    assert not (toy / "sweeps").exists()
