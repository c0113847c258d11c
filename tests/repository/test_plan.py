"""The plan of a workspace, compared with what a real DVC then does."""

import json
import shutil
from pathlib import Path

import pytest
from toy import CHAIN, ORDER, append, commit_all, execute, make_workspace

from pipeline.repository.dvc_output import Outcome, parse_outcomes
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.graph import Targets, read_graph
from pipeline.repository.plan import Action, PlannedStage, describe, plan, to_json


def make_plan(folder: Path) -> dict[str, tuple[Action, tuple[str, ...]]]:
    before = execute(folder, "git", "status", "--porcelain")
    with DvcWorker(folder) as dvc:
        targets = Targets()
        steps = plan(dvc, read_graph(dvc, targets), targets)
    assert execute(folder, "git", "status", "--porcelain") == before, "a plan changes nothing"
    return {step.name: (step.action, step.reasons) for step in steps}


def test_a_plan_with_nothing_to_do(fresh: Path) -> None:
    assert make_plan(fresh) == {stage: (Action.SKIP, ("unchanged",)) for stage in CHAIN}


def test_a_plan_says_what_runs_and_why(fresh: Path) -> None:
    (fresh / "params.yaml").write_text("scale: {width: 5, deep: {height: 4}}\n")
    assert make_plan(fresh) == {
        "first": (Action.SKIP, ("unchanged",)),
        "second": (Action.RUN, ("params.yaml scale.width 3 → 5",)),
        "third": (Action.FOLLOW, ("follows second",)),
    }


def test_a_plan_is_what_dvc_then_does(fresh: Path) -> None:
    """A change is run, then undone: the plan knows that its way back is in the run cache."""
    append(fresh / "second.py", "Path('second.txt').write_text('other')\n")
    execute(fresh, "dvc", "repro")
    execute(fresh, "git", "checkout", "--quiet", "second.py")
    steps = make_plan(fresh)
    assert steps == {
        "first": (Action.SKIP, ("unchanged",)),
        "second": (Action.RESTORE, ("second.py modified",)),
        "third": (Action.RESTORE, ("follows second",)),
    }
    assert dict(parse_outcomes(execute(fresh, "dvc", "repro"))) == {
        "first": Outcome.SKIPPED,
        "second": Outcome.RESTORED,
        "third": Outcome.RESTORED,
    }


def test_a_lost_output_comes_back_without_touching_what_follows(fresh: Path) -> None:
    (fresh / "second.txt").unlink()
    steps = make_plan(fresh)
    assert steps["second"] == (Action.RESTORE, ("second.txt deleted",))
    assert steps["third"][0] is Action.SKIP
    said = dict(parse_outcomes(execute(fresh, "dvc", "repro")))
    assert (said["second"], said["third"]) == (Outcome.RESTORED, Outcome.SKIPPED)


def test_a_plan_of_what_never_ran(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "new", CHAIN, ORDER)
    assert make_plan(folder) == {
        "first": (Action.RUN, ("not in dvc.lock yet",)),
        "second": (Action.FOLLOW, ("not in dvc.lock yet", "follows first")),
        "third": (Action.FOLLOW, ("not in dvc.lock yet", "follows second")),
    }


def test_every_kind_of_change_is_named(fresh: Path) -> None:
    (fresh / "params.yaml").write_text("scale: {width: 3, deep: {depth: 1}}\n")
    text = (fresh / "dvc.yaml").read_text()
    (fresh / "dvc.yaml").write_text(text.replace("python second.py", "python -u second.py"))
    append(fresh / "second.py", "#")
    assert make_plan(fresh)["second"][1] == (
        "second.py modified",
        "params.yaml scale.deep.depth unset → 1",
        "params.yaml scale.deep.height 4 → unset",
        "changed command",
    )


def test_a_plan_needs_no_git(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "bare", {"only": ""})
    shutil.rmtree(folder / ".git")
    execute(folder, "dvc", "config", "core.no_scm", "true")
    with DvcWorker(folder) as dvc:
        (stage,) = plan(dvc, read_graph(dvc, Targets()), Targets())
    assert (stage.action, stage.reasons) == (Action.RUN, ("not in dvc.lock yet",))


def test_a_plan_is_shown_as_lines_and_as_json() -> None:
    stages = [
        PlannedStage("fetch", Action.SKIP, ("unchanged",)),
        PlannedStage("preprocess", Action.RUN, ("params.yaml preprocess.seed 1 → 2", "x deleted")),
    ]
    assert describe(stages).splitlines() == [
        "fetch       skip      unchanged",
        "preprocess  run       params.yaml preprocess.seed 1 → 2; x deleted",
    ]
    assert json.loads(to_json(stages))[1] == {
        "stage": "preprocess",
        "action": "run",
        "reasons": ["params.yaml preprocess.seed 1 → 2", "x deleted"],
    }


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A stage that reads a file tracked by data.dvc, and one of sub/dvc.yaml that reads nothing."""
    folder = make_workspace(tmp_path / "a folder é", {"only": ""}, timeout=5)
    (folder / "data").write_text("data")
    execute(folder, "dvc", "add", "data")
    text = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(text.replace("- only.py", "- only.py\n    - data"))
    (folder / "sub").mkdir()
    sub = "stages: {train: {cmd: echo 1 > model, outs: [model], meta: {timeout: 7}}}"
    (folder / "sub" / "dvc.yaml").write_text(sub)
    execute(folder, "dvc", "remote", "add", "--default", "shared", str(tmp_path / "remote"))
    execute(folder, "dvc", "repro", "--all-pipelines")
    return folder


def test_data_that_a_dvc_file_tracks_is_part_of_the_plan(sources: Path) -> None:
    skipped = (Action.SKIP, ("unchanged",))
    assert make_plan(sources) == {"data.dvc": skipped, "only": skipped}
    (sources / "data").unlink()
    (sources / "data").write_text("other")
    assert make_plan(sources) == {
        "data.dvc": (Action.RECORD, ("data modified",)),
        "only": (Action.RUN, ("data modified", "follows data.dvc")),
    }


def test_a_plan_says_where_data_is_that_is_missing(sources: Path) -> None:
    (sources / "data").unlink()
    blocked = (Action.BLOCKED, ("data deleted", "needs data.dvc"))
    reason = "data is not here; the cache has it: dvc checkout data.dvc"
    assert make_plan(sources) == {"data.dvc": (Action.CHECKOUT, (reason,)), "only": blocked}
    execute(sources, "dvc", "push")
    shutil.rmtree(sources / ".dvc" / "cache")
    reason = "data is not here; the remote has it: dvc pull data.dvc"
    assert make_plan(sources)["data.dvc"] == (Action.PULL, (reason,))
    shutil.rmtree(sources.parent / "remote")
    reason = "data is not here; neither the cache nor a remote has it; put it back"
    assert make_plan(sources)["data.dvc"] == (Action.FAIL, (reason,))


def test_every_dvc_yaml_has_its_lock_and_its_meta(sources: Path) -> None:
    everything = Targets(all_pipelines=True)
    with DvcWorker(sources) as dvc:
        graph = read_graph(dvc, everything)
        assert {step.action for step in plan(dvc, graph, everything)} == {Action.SKIP}
    assert graph["only"].settings.timeout == 5
    assert graph["sub/dvc.yaml:train"].settings.timeout == 7
    (sources / "sub" / "dvc.lock").unlink()
    one = Targets(("sub/dvc.yaml:train",))
    with DvcWorker(sources) as dvc:
        (step,) = plan(dvc, read_graph(dvc, one), one)
    assert (step.action, step.reasons) == (Action.RUN, ("not in sub/dvc.lock yet",))


def test_a_frozen_stage_is_named_and_follows_nobody(fresh: Path) -> None:
    execute(fresh, "dvc", "freeze", "second")
    append(fresh / "first.py", "#")
    assert make_plan(fresh) == {
        "first": (Action.RUN, ("first.py modified",)),
        "second": (Action.SKIP, ("frozen",)),
        "third": (Action.SKIP, ("unchanged",)),
    }


@pytest.mark.parametrize("how", ["no deps", "frozen", "persist"])
def test_what_nothing_touches_is_skipped_though_something_else_is_stale(
    tmp_path: Path, how: str
) -> None:
    """DVC cannot restore these from the run cache, so a copy without outputs would rerun them."""
    folder = make_workspace(tmp_path / "w", {"kept": "", "after": "", "stale": ""})
    text = (folder / "dvc.yaml").read_text()
    text = text.replace("    - after.py\n", "    - after.py\n    - kept.txt\n")
    if how == "no deps":
        text = text.replace("    deps:\n    - kept.py\n", "")
    if how == "persist":
        text = text.replace("    - kept.txt\n    meta", "    - kept.txt: {persist: true}\n    meta")
    (folder / "dvc.yaml").write_text(text)
    execute(folder, "dvc", "repro")
    if how == "frozen":
        execute(folder, "dvc", "freeze", "kept")
    append(folder / "stale.py", "#")
    actions = {name: action for name, (action, _) in make_plan(folder).items()}
    assert actions == {"kept": Action.SKIP, "after": Action.SKIP, "stale": Action.RUN}


def test_a_missing_dependency_that_no_stage_makes_is_a_refusal(fresh: Path) -> None:
    """Also behind a stage that runs, where a dry run does not come to it."""
    append(fresh / "first.py", "#")
    (fresh / "second.py").unlink()
    reason = "second.py is not here; no stage makes it; put it back"
    assert make_plan(fresh) == {
        "first": (Action.RUN, ("first.py modified",)),
        "second": (Action.FAIL, (reason,)),
        "third": (Action.BLOCKED, ("needs second",)),
    }


def test_a_dvc_yaml_without_stages_means_all_there_are(tmp_path: Path) -> None:
    """To DVC no stage means every stage; the copy must have that dvc.yaml, too."""
    folder = make_workspace(tmp_path / "w", {})
    (folder / "sub").mkdir()
    (folder / "sub" / "dvc.yaml").write_text("stages: {one: {cmd: echo 1 > x, outs: [x]}}")
    steps = make_plan(folder)
    assert steps == {"sub/dvc.yaml:one": (Action.RUN, ("not in sub/dvc.lock yet",))}
    assert "Running stage 'sub/dvc.yaml:one'" in execute(folder, "dvc", "repro")


def test_an_import_whose_source_is_gone_is_up_to_date(tmp_path: Path) -> None:
    """Offline is normal: an import is frozen, and DVC does not ask for its source."""
    source = make_workspace(tmp_path / "source", {"made": ""})
    execute(source, "dvc", "repro")
    commit_all(source)
    folder = make_workspace(tmp_path / "w", {"only": ""})
    execute(folder, "dvc", "import", str(source), "made.txt")
    execute(folder, "dvc", "repro")
    commit_all(folder)
    shutil.rmtree(source)
    everything = Targets(all_pipelines=True)
    with DvcWorker(folder) as dvc:
        steps = plan(dvc, read_graph(dvc, everything), everything)
    assert {step.name: step.action for step in steps} == {
        "made.txt.dvc": Action.SKIP,
        "only": Action.SKIP,
    }


def test_an_output_outside_of_the_workspace_survives_a_plan(tmp_path: Path) -> None:
    """DVC removes a stage's outputs before it runs it, in the dry run, too."""
    outside = tmp_path / "outside.txt"
    folder = make_workspace(tmp_path / "w", {"only": f"Path({str(outside)!r}).write_text('here')"})
    text = (folder / "dvc.yaml").read_text()
    out = f"    - only.txt\n    - {outside}: {{cache: false}}\n"
    (folder / "dvc.yaml").write_text(text.replace("    - only.txt\n", out))
    execute(folder, "dvc", "repro")
    append(folder / "only.py", "#")
    assert make_plan(folder)["only"][0] is Action.RUN
    assert outside.read_text() == "here"
