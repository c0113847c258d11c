"""Scheduled runs from nothing: `serve` with its own server, on the sample of real digits."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers import STAGES, edit_params
from prefect_api import Api, deploy_to_pool, finish, free_port, message, start_worker
from toy import (
    GIT,
    STAY,
    assert_that_nothing_is_left,
    execute,
    make_model_workspace,
    make_workspace,
    processes_in,
    start_pipeline,
    wait_for_pids,
    wait_until,
)

from pipeline.orchestration.server import is_healthy

pytestmark = pytest.mark.slow

RAN = dict.fromkeys(STAGES, "Completed")
RETRAINED = RAN | {"fetch": "Skipped", "preprocess": "Skipped"}
RESTORED = {
    stage: "Restored" if state == "Completed" else state for stage, state in RETRAINED.items()
}
MODEL = Path("models/model.safetensors")


def test_scheduled_runs_end_to_end(repository: Path, tmp_path: Path) -> None:
    """All stages run, then those that a change affects; changed back, they are restored.

    Ctrl-C ends everything.
    """
    shutil.rmtree(repository / ".dvc" / "cache")
    (repository / "dvc.lock").unlink()
    url = f"http://127.0.0.1:{free_port()}/api"
    serve = start_pipeline(
        repository, url, "serve", "run", "--interval", "5", home=tmp_path / "prefect"
    )
    api = Api(url)
    try:
        wait_until(api.answers)
        first = api.run_named("Completed")
        assert list(api.states(first, RAN)) == list(STAGES)
        assert any(
            line.startswith("epoch 1/2: train loss")
            for line in api.logs(first, containing="epoch 2/2")
        )
        artifacts = api.artifacts(first)
        assert {"plan", "metrics", "params", "report"} <= artifacts.keys()
        assert [row["stage"] for row in artifacts["plan"]] == list(STAGES)
        assert "reports/index.html" in artifacts["report"]

        model = (repository / MODEL).read_bytes()
        edit_params(repository, "train", "learning_rate", 0.002)
        changed = api.run_named("Completed", besides={first["id"]})
        assert api.states(changed, RETRAINED) == RETRAINED
        assert (
            "params.yaml train.learning_rate 0.004 → 0.002"
            in api.artifacts(changed)["plan"][2]["why"]
        )
        assert (repository / MODEL).read_bytes() != model

        edit_params(repository, "train", "learning_rate", 0.004)
        undone = api.run_named("Completed", besides={first["id"], changed["id"]})
        assert api.states(undone, RESTORED) == RESTORED
        assert (repository / MODEL).read_bytes() == model
    finally:
        serve.send_signal(signal.SIGINT)
        output, _ = serve.communicate()
    assert f"Prefect's pages: {url.removesuffix('/api')}" in output
    wait_until(lambda: not processes_in(repository))
    assert not api.answers()


def test_scheduled_retraining_publishes_what_is_new(tmp_path: Path, api: Api) -> None:
    """By default each new commit that passes the gate is a version; the checkout stays as it is."""
    folder = make_model_workspace(tmp_path / "toy")
    serve = start_pipeline(folder, api.url, "serve", "--interval", "5")
    try:
        first = api.run_named("Published")
        assert message(first) == "toy@v1.0.0: accuracy 75.00%, and no champion yet"
        api.run_named("Unchanged")
        edit_params(folder, "train", "skill", 180)
        execute(folder, *GIT, "commit", "-qm", "new", "params.yaml")
        second = api.run_named("Published", besides={first["id"]})
        assert message(second).startswith(
            "toy@v1.1.0: accuracy 90.00% against the champion's 75.00%"
        )
    finally:
        serve.send_signal(signal.SIGINT)
        serve.communicate()
    assert execute(folder, "git", "status", "--porcelain") == ""
    assert execute(folder, "git", "log", "--format=%s", "main") == "new\nall\n"


@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_without_a_server_there_is_one_as_long_as_the_run(
    tmp_path: Path, number: signal.Signals | None
) -> None:
    folder = make_workspace(tmp_path / "alone", {"only": STAY if number else ""})
    process = start_pipeline(folder, "", "run", home=tmp_path / "prefect")
    if number:
        processes = wait_for_pids(folder)
        process.send_signal(number)
    output, _ = process.communicate()
    assert output.startswith("starting Prefect's server at http://127.0.0.1:")
    if number:
        assert_that_nothing_is_left(folder, processes)
    else:
        assert "Finished in state Completed" in output
    url = output.partition(" at ")[2].partition("\n")[0]
    wait_until(lambda: not is_healthy(url))


def test_a_killed_run_of_serve_has_crashed_and_the_next_one_comes(tmp_path: Path, api: Api) -> None:
    folder = make_workspace(tmp_path / "zombie", {"only": STAY})
    serve = start_pipeline(folder, api.url, "serve", "run", "--interval", "15")
    wait_for_pids(folder)
    [zombie] = api.runs(state={"name": {"any_": ["Running"]}}, deployment_id={"is_null_": False})
    [process] = [
        one for one in processes_in(folder) if one.cmdline()[1:] == ["-m", "prefect.engine"]
    ]
    process.kill()
    assert message(api.ended(zombie)) == "its process is gone"
    (folder / "go").touch()
    assert api.states(api.run_named("Completed"), {"only": "Completed"}) == {"only": "Completed"}
    serve.send_signal(signal.SIGINT)
    serve.communicate()


def test_when_the_machine_is_lost_another_goes_on(tmp_path: Path, api: Api) -> None:
    """Its run stays as it was, because nobody can tell; it takes no place of a later run."""
    lost = make_workspace(tmp_path / "lost", {"only": STAY})
    serve = start_pipeline(lost, api.url, "serve", "run", "--interval", "5")
    wait_for_pids(lost)
    for process in processes_in(lost):
        process.kill()
    finish(serve)
    shutil.rmtree(lost)
    [orphan] = api.runs(state={"name": {"any_": ["Running"]}}, deployment_id={"is_null_": False})
    another = make_workspace(tmp_path / "another", {"only": ""})
    serve = start_pipeline(another, api.url, "serve", "run", "--interval", "5")
    done = api.run_named("Completed")
    assert api.states(done, {"only": "Completed"}) == {"only": "Completed"}
    serve.terminate()
    finish(serve)
    assert api.runs(id={"any_": [orphan["id"]]})[0]["state"]["name"] == "Running"


def test_two_that_serve_one_flow_in_a_folder_are_refused(tmp_path: Path, api: Api) -> None:
    folder = make_workspace(tmp_path / "twice", {"only": ""})
    first = start_pipeline(folder, api.url, "serve", "run")
    assert first.stdout
    assert first.stdout.readline().startswith("Prefect's pages: ")
    second = start_pipeline(folder, api.url, "serve", "run")
    assert finish(second) == f"error: mnist is served in {folder} already; stop that first\n"
    assert second.returncode == 1
    first.terminate()
    finish(first)


def test_a_worker_does_once_what_was_missed(tmp_path: Path, api: Api) -> None:
    """The worker of the pool starts late."""
    folder, variables = deploy_to_pool(tmp_path / "pool", api, interval=5)
    late = api.wait_for(lambda: enough(api.runs(state={"name": {"any_": ["Late"]}})))
    worker = start_worker(folder, variables)
    done = api.run_named("Published")
    expected = {"train": "Completed", "evaluate": "Completed"}
    assert api.states(done, expected) == expected
    # before the worker ends: it would kill the run's process, which sends its log every 2 seconds
    assert "> python train.py" in api.logs(done, containing="> python train.py")
    worker.send_signal(signal.SIGINT)
    finish(worker)
    others = {run["id"] for run in late} - {done["id"]}
    assert {run["state"]["type"] for run in api.runs(id={"any_": sorted(others)})} == {"CANCELLED"}


def enough(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return runs if len(runs) > 2 else []
