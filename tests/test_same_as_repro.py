"""The plan and the flow against `dvc repro` itself, on random graphs and random edits.

Two folders hold the same graph. After each edit, made in both, the plan is asked in one, then
`dvc repro` runs in the other and the flow in the first. The plan must have named what DVC then did,
the flow must end in the same states, and both folders must hold the same bytes.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from graphs import Edit, Node, Workspace, graphs
from hypothesis import HealthCheck, Phase, given, settings
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect_api import Api, calling
from toy import commit_all, execute

from pipeline.orchestration import flow
from pipeline.repository.dvc_output import Outcome, parse_outcomes
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.graph import Targets, read_graph
from pipeline.repository.plan import Action, plan

DONE = {
    Action.RUN: {Outcome.RAN},
    Action.RESTORE: {Outcome.RESTORED},
    Action.RECORD: {Outcome.RECORDED},
    Action.SKIP: {Outcome.SKIPPED},
    Action.FOLLOW: {Outcome.RAN, Outcome.RESTORED, Outcome.SKIPPED},
}
# Prefect ends a flow run when its heart, which sleeps for whole seconds, has woken up
BRISK = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
)


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty") / "workspace"
    folder.mkdir()
    execute(folder, "git", "init", "--quiet")
    execute(folder, "dvc", "init", "--quiet")
    commit_all(folder)
    return folder


def make_plan(dvc: DvcWorker, targets: Targets) -> dict[str, tuple[Action, str]]:
    planned = plan(dvc, read_graph(dvc, targets), targets)
    return {stage.name: (stage.action, "; ".join(stage.reasons)) for stage in planned}


def run_flow(folder: Path, targets: Targets, api: Api) -> dict[str, str]:
    """Run the flow in this process; return the names of the tasks' states."""
    ended: dict[str, Any] = {}
    summarize = flow.summarize_states

    def note(states: dict[str, Any]) -> Any:
        ended.update(states)
        return summarize(states)

    previous = Path.cwd()
    os.chdir(folder)
    flow.summarize_states = note  # it gets the state of every task
    try:
        with calling(api), temporary_settings(BRISK):
            stages, all_pipelines = list(targets.stages), targets.all_pipelines
            jobs = 2 if all_pipelines else 1
            flow.run_graph(stages, all_pipelines=all_pipelines, jobs=jobs, return_state=True)
    finally:
        flow.summarize_states = summarize
        os.chdir(previous)
    return {name: state.name for name, state in ended.items()}


def compare(one: Workspace, other: Workspace, targets: Targets, api: Api) -> None:
    """Compare plan, flow and repro in two equal workspaces."""
    before = one.files()
    planned = make_plan(one.dvc, targets)
    assert one.files() == before, "a plan changes nothing"
    code, output, errors = other.dvc.request("repro", "--keep-going", *targets.arguments())
    done = dict(parse_outcomes(output))
    states = run_flow(one.folder, targets, api)
    assert planned.keys() == states.keys() >= done.keys()
    for name, (action, reason) in planned.items():
        shown = f"{name}: planned {action} ({reason}), repro {done.get(name)}: {output}{errors}"
        if action in DONE:
            assert done.get(name) in DONE[action], shown
            assert states[name] == done[name], shown
        else:
            assert done.get(name) not in DONE[Action.FOLLOW], shown
            assert states[name] == flow.REFUSED.get(action, "NotReady"), shown
    refused = {action for action, _ in planned.values()} - DONE.keys()
    assert bool(refused) == bool(code), output + errors
    assert one.files() == other.files()


def run_case(graph: list[Node], edits: list[Edit], empty: Path, folder: Path, api: Api) -> None:
    """Compare after the first run, and after each edit."""
    shutil.rmtree(folder, ignore_errors=True)
    targets = Targets(all_pipelines=bool(edits[0].number % 2))
    one, other = (Workspace(folder / name / "w", empty, graph) for name in ("1", "2"))
    with one, other:
        compare(one, other, targets, api)
        for edit in edits:
            one.edit(edit)
            other.edit(edit)
            compare(one, other, targets, api)


@given(case=graphs(edits=2))
@settings(SETTINGS, max_examples=8)
def test_plan_and_flow_do_what_dvc_repro_does(
    case: tuple[list[Node], list[Edit]],
    empty: Path,
    tmp_path_factory: pytest.TempPathFactory,
    prefect_server: Api,
) -> None:
    run_case(*case, empty, tmp_path_factory.getbasetemp() / "case", prefect_server)


@pytest.mark.slow
@given(case=graphs(edits=3))
@settings(SETTINGS, max_examples=25)
def test_plan_and_flow_do_what_dvc_repro_does_100_times(
    case: tuple[list[Node], list[Edit]],
    empty: Path,
    tmp_path_factory: pytest.TempPathFactory,
    prefect_server: Api,
) -> None:
    run_case(*case, empty, tmp_path_factory.getbasetemp() / "case", prefect_server)
