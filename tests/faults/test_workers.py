"""Sweeps that lose a worker or are killed: real digits, real Git and DVC remotes."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect_api import Api, finish
from toy import GIT, execute, processes_under, start_pipeline, wait_until

from pipeline.repository.processes import subprocess_environment

pytestmark = pytest.mark.slow

DASK = (sys.executable, "-m", "dask")
SETTINGS: dict[str, list[Any]] = {
    "train.learning_rate": [0.002, 0.004],
    "train.batch_size": [16, 64],
    "train.keep": ["best", "last"],
}
EIGHT = [
    word
    for name, values in SETTINGS.items()
    for word in ("--set", f"{name}={','.join(map(str, values))}")
]


@pytest.fixture
def pushed(repository: Path, tmp_path: Path) -> Path:
    """Return a repository whose commit is on a Git remote and whose data is on a DVC remote."""
    execute(tmp_path, "git", "init", "--quiet", "--bare", "git")
    execute(repository, "git", "remote", "add", "origin", str(tmp_path / "git"))
    execute(repository, "dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    execute(repository, *GIT, "commit", "-qam", "remote")
    execute(repository, "git", "push", "--quiet", "origin", "HEAD:main")
    execute(repository, "dvc", "push", "--quiet")
    return repository


@pytest.fixture
def cluster(tmp_path: Path) -> "Iterator[tuple[str, list[subprocess.Popen[bytes]]]]":
    """Yield the address of a Dask scheduler, and its two workers.

    Each worker has a folder of its own, as on a machine of its own.
    """
    note = tmp_path / "scheduler.json"
    options = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(note)]
    started = [subprocess.Popen([*DASK, "scheduler", "--port", "0", *options])]
    wait_until(note.exists)
    for name in ("first", "second"):
        alone = ["--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path / name)]
        started.append(
            subprocess.Popen([*DASK, "worker", *alone, *options], env=subprocess_environment())
        )
    yield json.loads(note.read_text())["address"], started[1:]
    for process in started:
        process.kill()
        process.wait()


def test_all_results_arrive_if_one_of_two_dask_workers_is_killed(
    pushed: Path, cluster: "tuple[str, list[subprocess.Popen[bytes]]]", api: Api, tmp_path: Path
) -> None:
    address, (victim, _) = cluster
    sweep = start_pipeline(pushed, api.url, "sweep", *EIGHT, "--dask", address)
    children = {"parent_task_run_id": {"is_null_": False}}
    done = children | {"state": {"type": {"any_": ["COMPLETED"]}}}
    wait_until(lambda: len(api.runs(**done)) >= 2)
    wait_until(lambda: processes_under(tmp_path / "first"))
    victim.kill()
    output = finish(sweep)
    assert sweep.returncode == 0, output
    assert "8 of 8 combinations" in output

    [table] = pushed.glob("sweeps/*/combinations.csv")
    rows = pd.read_csv(table)
    assert set(rows[[*SETTINGS]].itertuples(index=False, name=None)) == set(
        itertools.product(*SETTINGS.values())
    )
    assert rows["validation accuracy"].between(0.5, 1).all()
    assert rows["validation accuracy"].is_monotonic_decreasing
    ended = [(run["name"], run["state"]["name"]) for run in api.runs(**children)]
    assert (
        len({name for name, state in ended if state in ("Completed", "Skipped", "Restored")}) == 8
    )
    assert [state for _, state in ended].count("Crashed") <= 1, "the victim was at work on one"
    wait_until(lambda: not processes_under(tmp_path / "first"))
    assert execute(pushed, "git", "status", "--porcelain") == ""

    one = [f"--set={name}={values[-1]}" for name, values in SETTINGS.items()]
    finish(start_pipeline(pushed, api.url, "sweep", *one))
    here = pd.read_csv(
        max(pushed.glob("sweeps/*/combinations.csv"), key=lambda path: path.stat().st_mtime)
    )
    merged = here.merge(rows, on=[*SETTINGS])
    assert list(merged["validation accuracy_x"]) == list(merged["validation accuracy_y"]), (
        "wherever it runs"
    )


def test_a_killed_sweep_is_resumed_and_publishes_the_best(repository: Path, api: Api) -> None:
    command = ["sweep", *EIGHT[:2], "--set", "train.batch_size=16,64", "--publish", "champion"]
    first = start_pipeline(repository, api.url, *command)
    done = {"parent_task_run_id": {"is_null_": False}, "state": {"type": {"any_": ["COMPLETED"]}}}
    wait_until(lambda: len(api.runs(**done)) >= 2)
    first.kill()
    finish(first)
    wait_until(lambda: not processes_under(repository))
    assert execute(repository, "git", "branch", "--list", "champion") == ""

    output = finish(start_pipeline(repository, api.url, *command))
    [table] = repository.glob("sweeps/*/combinations.csv")
    rows = pd.read_csv(table)
    assert len(rows) == 4
    assert {"Restored", "Completed"} == set(rows["state"]) - {"Skipped"}, (
        "what was done is not done again"
    )
    assert "Published" in output, output
    best = rows.iloc[0]
    params = execute(repository, "git", "show", "champion:params.yaml")
    assert f"learning_rate: {best['train.learning_rate']}" in params
    assert f"batch_size: {best['train.batch_size']}" in params
    assert execute(repository, "git", "status", "--porcelain") == ""
    assert [path.name for path in (repository / ".dvc/tmp/worktrees").iterdir()] == ["lock"]
