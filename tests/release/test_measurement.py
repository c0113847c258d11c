"""The champion measured on a candidate's images, with models that are two numbers.

The images are counts: of the data set's, and of own ones. A model reads the first so many of the
data set's right, and so many of each ten own ones.
"""

import io
import re
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers import edit_params
from prefect.client.schemas.objects import State
from prefect_api import Api, calling
from toy import (
    commit_all,
    execute,
    make_model_workspace,
    processes_under,
    start_pipeline,
    wait_until,
)

from benchmarks.other_writers import write_pictures
from pipeline.release.candidate import Candidate, collect_candidate
from pipeline.release.champion import promote, publish, publish_lock, reconcile
from pipeline.release.gate import judge, read_gate
from pipeline.release.measurement import evaluate_champion
from pipeline.release.retrain import retrain
from pipeline.release.yardsticks import Champion, score, select
from pipeline.repository.dvc_files import locked_outputs, read_yaml
from pipeline.repository.git import git, resolve_commit
from pipeline.repository.processes import CancelScope, RunCancelledError
from pipeline.repository.refs import Target

PARAMS = """\
preprocess:
  test: 200
  own: 10
train:
  skill: 150
  own: 6
gate:
  metric: accuracy
  minimum: 0.5
  largest_drop: 0.05
  significance: 0.01
  own: {images: 10, minimum: 0.5, largest_drop: 0.05}
"""
GRAPH = """\
stages:
  preprocess:
    cmd: python preprocess.py
    deps: [preprocess.py]
    params: [preprocess]
    outs: [images.json]
  train:
    cmd: python train.py
    deps: [train.py]
    params: [train]
    outs: [model.txt]
  evaluate:
    cmd: python evaluate.py
    deps: [evaluate.py, images.json, model.txt]
    outs: [reports/predictions.csv]
    metrics: [reports/metrics.json: {cache: false}]
artifacts:
  toy: {path: model.txt, type: model}
"""
PREPROCESS = """
import json
from pathlib import Path
from ruamel.yaml import YAML
params = YAML(typ="safe").load(Path("params.yaml").read_text())
Path("images.json").write_text(json.dumps(params["preprocess"]))
"""
TRAIN = """
from pathlib import Path
from ruamel.yaml import YAML
params = YAML(typ="safe").load(Path("params.yaml").read_text())["train"]
Path("model.txt").write_text(f"{params['skill']} {params['own']}")
"""
EVALUATE = """
import json
from pathlib import Path
skill, own = (int(number) for number in Path("model.txt").read_text().split())
images = json.loads(Path("images.json").read_text())
rows = [("A", i, i < skill) for i in range(images["test"])]
own_rows = [("own", i, i % 10 < own) for i in range(images["own"])]
lines = [f"{source},{i:032x},1,{int(hit)},0.9" for source, i, hit in rows + own_rows]
header = "source,image,label,prediction,confidence"
Path("reports").mkdir(exist_ok=True)
Path("reports/predictions.csv").write_text("\\n".join([header, *lines, ""]))
metrics = {"accuracy": sum(hit for *_, hit in rows) / len(rows)}
if own_rows:
    share = sum(hit for *_, hit in own_rows) / len(own_rows)
    metrics["own"] = {"images": len(own_rows), "accuracy": share}
Path("reports/metrics.json").write_text(json.dumps(metrics))
"""
# In commits from before own images an image is known by its row.
EVALUATE_BY_ROW = EVALUATE.replace("{source},{i:032x},", "{i},").replace("source,image", "index")
# A network that this code cannot rebuild, of models that read 150 images right
REFUSE = """
if skill == 150:
    raise SystemExit("error: model.txt holds another network; train it again")
"""
# Stays when such a model is measured, and says so
STAY = """
import time
if skill == 150 and Path(__file__).parents[1].name.startswith("measure-"):
    Path(__file__).parents[3].joinpath("staying").touch()
    time.sleep(600)
"""


def insert(script: str, lines: str) -> str:
    """Return the evaluating script with lines after the one that reads the model."""
    return script.replace("\nimages =", f"{lines}\nimages =")


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a repository and its DVC remote; the champion is what is committed."""
    root = tmp_path_factory.mktemp("measured")
    folder = make_model_workspace(root / "checkout")
    scripts = {"preprocess": PREPROCESS, "train": TRAIN, "evaluate": EVALUATE}
    files = {"params.yaml": PARAMS, "dvc.yaml": GRAPH}
    for name, text in {**files, **{f"{name}.py": text for name, text in scripts.items()}}.items():
        (folder / name).write_text(text, encoding="utf-8")
    execute(folder, "dvc", "remote", "add", "--default", "storage", "../storage")
    publish_all(folder)
    return root


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    execute(tmp_path, "cp", "-r", f"{published}/.", str(tmp_path / "root"))
    return tmp_path / "root" / "checkout"


def publish_all(folder: Path, model: str = "toy") -> None:
    """Make what the folder gives the champion."""
    execute(folder, "dvc", "repro")
    commit_all(folder)
    target = Target(folder, model, "champion", None)
    with publish_lock(target):
        publish(target, "HEAD", {}, reconcile(target), "Publish {version}", "")


def make_candidate(folder: Path, **changes: Any) -> Candidate:
    """Return what the folder gives with these parameters, which are not committed."""
    for name, value in changes.items():
        section, _, parameter = name.partition("_")
        edit_params(folder, section, parameter, value)
    execute(folder, "dvc", "repro")
    gate = read_gate(read_yaml(folder / "params.yaml"))
    return collect_candidate(folder, resolve_commit(folder, "HEAD"), {}, gate)


def evaluate_now(folder: Path, candidate: Candidate) -> tuple[Champion, list[str]]:
    """Return what the champion did, and what was said of it."""
    said: list[str] = []
    target = Target(folder, "toy", "champion", None)
    return evaluate_champion(
        target, git(folder, "rev-parse", "champion"), candidate, said.append
    ), said


def reason(folder: Path, candidate: Candidate) -> str:
    champion, _ = evaluate_now(folder, candidate)
    return judge(candidate.gate, candidate.evaluation, champion).reason


def lose(folder: Path, path: str) -> None:
    """Delete the champion's file from DVC's cache."""
    lock = execute(folder, "git", "show", "champion:dvc.lock")
    md5 = next(out.md5 for out in locked_outputs(lock) if out.path == path)
    (folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()


def state_of(folder: Path) -> tuple[Any, ...]:
    return (
        execute(folder, "git", "status", "--porcelain"),
        execute(folder, "git", "for-each-ref"),
        (folder / ".git" / "index").read_bytes(),
        (folder / "model.txt").read_bytes(),
        (folder / "reports/metrics.json").read_bytes(),
        [path.name for path in (folder / ".dvc/tmp/worktrees").iterdir()],
    )


def test_predictions_of_the_same_images_are_the_commits(folder: Path) -> None:
    """From DVC's cache, or else from its remote."""
    candidate = make_candidate(folder, train_own=7)
    for damage in ([], [".dvc/cache"]):
        execute(folder, "rm", "-rf", *damage)
        champion, said = evaluate_now(folder, candidate)
        assert (champion.measured, champion.failure, said) == (None, "", [])
        assert champion.stored.metrics == {"accuracy": 0.75, "own.images": 10, "own.accuracy": 0.6}
    assert reason(folder, candidate) == (
        "On A, accuracy 75.00% against the champion's 75.00%, no difference beyond noise: 0 images"
        " gained and 0 lost, McNemar's p = 1. On own images, accuracy 70.00% against the champion's"
        " 60.00%, no difference beyond noise: 1 images gained and 0 lost, McNemar's p = 1"
    )


def test_on_more_images_the_champion_is_measured_by_its_own_model(folder: Path) -> None:
    candidate = make_candidate(folder, train_own=8, train_skill=160, preprocess_own=40)
    before = state_of(folder)
    champion, said = evaluate_now(folder, candidate)
    assert state_of(folder) == before
    assert champion.measured
    assert champion.measured.metrics == {
        "accuracy": 0.75,
        "own.images": 40,
        "own.accuracy": 0.6,
    }
    assert "Running stage 'evaluate':" in said
    assert reason(folder, candidate) == (
        "On A, accuracy 80.00% against the champion's 75.00%, more than noise: 10 images gained and"
        " 0 lost, McNemar's p = 0.00195. On own images, accuracy 80.00% against the champion's"
        " 60.00%, more than noise: 8 images gained and 0 lost, McNemar's p = 0.00781; of 30 new"
        " images the champion read 18 (60.0%), the candidate 24 (80.0%)"
    )
    again, said = evaluate_now(folder, candidate)
    assert again == champion
    assert any("is cached - skipping run" in line for line in said), "not run a second time"


def test_a_champion_from_before_images_had_identities_is_measured(folder: Path) -> None:
    (folder / "evaluate.py").write_text(EVALUATE_BY_ROW)
    edit_params(folder, "preprocess", "own", 0)
    publish_all(folder)
    assert execute(folder, "git", "diff", "--stat", "champion~1", "champion") != ""
    (folder / "evaluate.py").write_text(EVALUATE)
    commit_all(folder)
    candidate = make_candidate(folder, train_skill=145, preprocess_own=10)
    assert reason(folder, candidate) == (
        "On A, accuracy 72.50% against the champion's 75.00%, no difference beyond noise: 0 images"
        " gained and 5 lost, McNemar's p = 0.0625. On own images, accuracy 60.00% against the"
        " champion's 60.00%, no difference beyond noise: 0 images gained and 0 lost, McNemar's"
        " p = 1; of 10 new images the champion read 6 (60.0%), the candidate 6 (60.0%)"
    )


def test_a_candidate_of_an_earlier_commit_is_compared_too(folder: Path) -> None:
    """Its code knows images by their rows only."""
    (folder / "evaluate.py").write_text(EVALUATE_BY_ROW)
    commit_all(folder)
    candidate = make_candidate(folder, train_skill=160, preprocess_own=0)
    assert reason(folder, candidate) == (
        "accuracy 80.00% against the champion's 75.00%, more than noise: 10 images gained and 0"
        " lost, McNemar's p = 0.00195; no own images are held out: 10 images that the champion was"
        " measured on are gone"
    )


def test_fewer_images_need_no_measuring(folder: Path) -> None:
    candidate = make_candidate(folder, preprocess_test=160, preprocess_own=5)
    champion, said = evaluate_now(folder, candidate)
    assert (champion.measured, champion.failure, said) == (None, "", [])
    assert reason(folder, candidate) == (
        "On A, accuracy 93.75% against the champion's 93.75%, no difference beyond noise: 0 images"
        " gained and 0 lost, McNemar's p = 1; 40 images that the champion was measured on are gone."
        " On own images, accuracy 100.00% against the champion's 100.00%, no difference beyond"
        " noise: 0 images gained and 0 lost, McNemar's p = 1; 5 own images, too few to judge by: 10"
        " are asked for; 5 images that the champion was measured on are gone"
    )


def test_a_model_that_cannot_run_is_compared_on_the_images_that_both_have(folder: Path) -> None:
    (folder / "evaluate.py").write_text(insert(EVALUATE, REFUSE))
    commit_all(folder)
    candidate = make_candidate(folder, train_skill=160, train_own=8, preprocess_own=40)
    champion, said = evaluate_now(folder, candidate)
    assert champion.failure == "model.txt holds another network"
    assert said[-1] == "the champion could not be measured: model.txt holds another network"
    assert reason(folder, candidate) == (
        "On A, accuracy 80.00% against the champion's 75.00%, more than noise: 10 images gained and"
        " 0 lost, McNemar's p = 0.00195. On own images, accuracy 80.00%, on the 10 of 40 images"
        " that both were measured on 80.00% against the champion's 60.00%, no difference beyond"
        " noise: 2 images gained and 0 lost, McNemar's p = 0.5; the champion could not be"
        " measured on the others: model.txt holds another network; of 30 new images the candidate"
        " read 24 (80.0%)"
    )


def test_a_stage_that_breaks_on_the_model_is_named_by_its_last_words(folder: Path) -> None:
    broken = insert(EVALUATE, "\nif skill == 150:\n    {}['weights']")
    (folder / "evaluate.py").write_text(broken)
    commit_all(folder)
    champion, _ = evaluate_now(folder, make_candidate(folder, train_skill=160, preprocess_own=40))
    assert champion.failure == "KeyError: 'weights'"


def test_without_an_image_in_common_the_verdict_says_that_there_was_no_test(folder: Path) -> None:
    (folder / "evaluate.py").write_text(EVALUATE_BY_ROW)
    edit_params(folder, "preprocess", "own", 0)
    publish_all(folder)
    (folder / "evaluate.py").write_text(insert(EVALUATE, REFUSE))
    commit_all(folder)
    candidate = make_candidate(folder, train_skill=160, preprocess_own=10)
    assert reason(folder, candidate) == (
        "On A, accuracy 80.00% against the champion's 75.00%; not tested: the champion has no"
        " predictions of the same images (model.txt holds another network). On own images, accuracy"
        " 60.00%, and the champion was not measured on these images: model.txt holds another"
        " network; of 10 new images the candidate read 6 (60.0%)"
    )


def test_a_model_is_fetched_or_the_verdict_says_that_it_is_nowhere(folder: Path) -> None:
    candidate = make_candidate(folder, train_own=8, preprocess_own=40)
    lose(folder, "model.txt")
    champion, _ = evaluate_now(folder, candidate)
    assert champion.measured, "it is on the remote"
    lose(folder, "model.txt")
    execute(folder, "rm", "-rf", "../storage")
    champion, _ = evaluate_now(folder, candidate)
    assert champion.failure == "model.txt is neither in DVC's cache nor on its remote"
    assert "on the 10 of 40 images that both were measured on 80.00%" in reason(folder, candidate)
    execute(folder, "rm", "-rf", ".dvc/cache")
    assert reason(folder, candidate).startswith(
        "On A, accuracy 75.00% against the champion's 75.00%; not tested: the champion has no"
        " predictions of the same images (model.txt is neither in DVC's cache nor on its remote)."
    )


def test_a_champion_without_a_stage_that_measures_is_said_to_have_none(folder: Path) -> None:
    candidate = make_candidate(folder, preprocess_own=40)
    champion, _ = evaluate_now(folder, replace(candidate, lock=b""))
    assert champion.failure == "no stage of dvc.lock writes reports/metrics.json"


def test_a_cancelled_measuring_is_no_failure_of_the_champion(folder: Path) -> None:
    (folder / "evaluate.py").write_text(insert(EVALUATE, STAY))
    commit_all(folder)
    candidate = make_candidate(folder, train_skill=160, preprocess_own=40)
    with CancelScope() as scope:

        def cancel() -> None:
            wait_until((folder / ".dvc/tmp/staying").exists)
            scope.cancel()

        threading.Thread(target=cancel).start()
        with pytest.raises(RunCancelledError):
            evaluate_now(folder, candidate)
    wait_until(lambda: not processes_under(folder))
    assert [path.name for path in (folder / ".dvc/tmp/worktrees").iterdir()] == ["lock"]


# The same with networks and the sample's digits; own images are digits of other writers.


@pytest.fixture
def digits(repository: Path) -> Path:
    """A repository of the sample whose gate asks for little of own images."""
    own = "  own: {images: 1, minimum: 0, largest_drop: 1}\n"
    gate, _, _ = (repository / "params.yaml").read_text().partition("  own:\n    images")
    (repository / "params.yaml").write_text(gate + own)
    commit_all(repository)
    return repository


def add_batch(folder: Path, name: str, indices: range) -> None:
    place = folder / "data/own" / name
    place.mkdir(parents=True)
    write_pictures(place, indices, lambda index, label: label)
    execute(folder, "dvc", "add", "--quiet", str(place.relative_to(folder)))
    commit_all(folder)


def read_right(content: bytes) -> "pd.Series[bool]":
    """Return whether each image was read right, in the order of the file."""
    table = pd.read_csv(io.BytesIO(content))
    return table["label"] == table["prediction"]


@pytest.mark.slow
def test_a_real_champion_from_before_own_images_is_measured_on_all_of_them(digits: Path) -> None:
    """Its predictions know an image by its row."""
    path = digits / "reports/predictions.csv"
    table = pd.read_csv(path).drop(columns=["source", "image"])
    table.to_csv(path, index_label="index")
    execute(digits, "dvc", "commit", "--quiet", "--force", "evaluate")
    commit_all(digits)
    before = read_right(path.read_bytes())
    with publish_lock(target := Target(digits, "mnist-cnn", "champion", None)):
        publish(target, "HEAD", {}, None, "Publish {version}", "")
    add_batch(digits, "first", range(300))
    candidate = make_candidate(digits, train_epochs=3)

    champion, said = evaluate_now(digits, candidate)
    assert champion.measured, said
    after = read_right(candidate.evaluation.predictions)
    again = read_right(champion.measured.predictions)
    count = len(before)
    assert again[:count].tolist() == before.tolist(), "the same model on the data set's images"
    verdict = judge(candidate.gate, candidate.evaluation, champion)
    assert [result.yardstick for result in verdict.results] == ["sample", "own images"]
    for result, rows in zip(verdict.results, (slice(count), slice(count, None)), strict=True):
        new, old = after[rows], again[rows]
        comparison = result.standing.comparison
        assert comparison
        assert (comparison.gained, comparison.lost) == ((new & ~old).sum(), (old & ~new).sum())
        assert result.standing.champion == pytest.approx(old.mean(), abs=1e-6)
    images = len(after) - count
    assert images > 30
    assert verdict.reason.endswith(
        f"; of {images} new images the champion read {old.sum()} ({old.mean():.1%}), the candidate"
        f" {new.sum()} ({new.mean():.1%})"
    )


@pytest.mark.slow
def test_a_real_network_is_rebuilt_if_this_code_can(digits: Path) -> None:
    """The champion has another size, which its file says; then another network altogether."""
    add_batch(digits, "first", range(300))
    publish_all(digits, "mnist-cnn")
    add_batch(digits, "second", range(300, 500))
    edit_params(digits, "train", "network", {"hidden": 32})
    commit_all(digits)
    champion, said = evaluate_now(digits, make_candidate(digits))
    assert (champion.failure, said[0][-12:]) == ("", "measuring it")
    assert champion.measured
    images = champion.measured.metrics["own.images"]
    assert images > champion.stored.metrics["own.images"]

    model = digits / "pipeline/mnist/model.py"
    text = model.read_text().replace("nn.Conv2d(1, 32,", "nn.Conv2d(1, 16,")
    model.write_text(text.replace("nn.Conv2d(32, 64,", "nn.Conv2d(16, 64,"))
    commit_all(digits)
    candidate = make_candidate(digits)
    champion, _ = evaluate_now(digits, candidate)
    assert champion.measured is None
    assert re.fullmatch(
        r"models/model.safetensors is not what the train stage writes \(of another CNN: "
        r"conv1.+ differ\)",
        champion.failure,
    )
    verdict = judge(candidate.gate, candidate.evaluation, champion)
    assert [result.standing.comparison is None for result in verdict.results] == [False, False]
    standing = verdict.results[1].standing
    assert (standing.images, standing.shared) == (images, champion.stored.metrics["own.images"])
    assert f"could not be measured on the others: {champion.failure}; of " in verdict.reason


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["f1", "precision", "recall"])
def test_a_real_stage_measures_own_images_by_each_metric(digits: Path, metric: str) -> None:
    """What the gate computes on shared images is what the stage wrote."""
    add_batch(digits, "first", range(300))
    candidate = make_candidate(digits, gate_metric=metric)
    evaluation = candidate.evaluation
    own = select(evaluation, own=True)
    assert score(metric, own.predictions) == pytest.approx(own.metrics[metric], abs=1e-6)
    verdict = judge(candidate.gate, evaluation, Champion(evaluation))
    assert (
        f"On own images, {metric} {own.metrics[metric]:.2%} against the champion's"
        in verdict.reason
    )


# The same in runs of the flow


def retrain_now(folder: Path, api: Api, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> str:
    """Retrain what is committed, with changes; return the name and the message of the state."""
    monkeypatch.chdir(folder)
    with calling(api):
        values = {name.replace("_", ".", 1): value for name, value in changes.items()}
        state: State[Any] = retrain(changes=values, return_state=True)
    return f"{state.name}: {state.message}"


@pytest.mark.slow
def test_the_run_the_page_and_the_commit_tell_of_the_new_images(
    folder: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = retrain_now(folder, api, monkeypatch, train_own=8, preprocess_own=40)
    told = "of 30 new images the champion read 18 (60.0%), the candidate 24 (80.0%)"
    assert said.startswith("Published: toy@v1.1.0: On A, accuracy 75.00% against")
    assert said.endswith(told)
    commit = execute(folder, "git", "log", "-1", "--format=%B", "champion")
    assert commit.startswith(
        "Publish toy@v1.1.0: accuracy 75.00%, own images 80.00% [skip ci]\n\nOn A, accuracy"
    )
    page = api.artifacts(api.last_run())["verdict"]
    assert "| new images that the champion reads right |  | 18 |" in page
    for text in (commit, page, execute(folder, "git", "show", "champion:reports/verdict.md")):
        assert told in text
    assert retrain_now(folder, api, monkeypatch, train_own=8, preprocess_own=40) == (
        "Unchanged: champion has this model already"
    )

    promote(Target(folder, "toy", "champion", None), "v1.0.0")
    said = retrain_now(folder, api, monkeypatch, train_own=5, preprocess_own=40)
    assert said.startswith(
        "Rejected: On own images, accuracy 50.00% against the champion's 60.00%: "
    )
    assert (
        "; of 30 new images the champion read 18 (60.0%), the candidate 15 (50.0%). On A," in said
    )
    said = retrain_now(folder, api, monkeypatch, preprocess_own=0)
    assert said.startswith("Published: toy@v1.2.0: accuracy 75.00% against the champion's 75.00%, ")
    assert said.endswith(
        "; no own images are held out: 10 images that the champion was measured on are gone"
    )


@pytest.mark.slow
def test_a_gate_without_a_section_for_own_images_is_refused_in_one_line(
    folder: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = (folder / "params.yaml").read_text().partition("  own: {")[0]
    (folder / "params.yaml").write_text(gate)
    commit_all(folder)
    said = retrain_now(folder, api, monkeypatch, train_own=7)
    assert said.startswith(
        "Failed: params.yaml: gate.own is missing, and there are own images; add"
    )
    assert "\n" not in said
    assert retrain_now(folder, api, monkeypatch, preprocess_own=0).startswith("Published: ")


@pytest.mark.slow
def test_another_champion_is_measured_when_the_branch_has_moved(
    folder: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the judgement and the publishing somebody promotes an earlier version."""
    edit_params(folder, "train", "own", 8)
    publish_all(folder)
    moves = iter([("branch", "--force", "champion", "toy@v1.0.0"), None])

    def publish_late(target: Target, *arguments: Any) -> str:
        if move := next(moves):
            execute(folder, "git", *move)
        return publish(target, *arguments)

    monkeypatch.setattr("pipeline.release.retrain.publish", publish_late)
    said = retrain_now(folder, api, monkeypatch, train_own=9, preprocess_own=40)
    assert said.startswith("Published: ")
    assert said.endswith("of 30 new images the champion read 18 (60.0%), the candidate 27 (90.0%)")
    log = api.logs(api.last_run(), containing="judging again")
    assert sum("measuring it" in line for line in log) == 2


def test_a_cancel_ends_the_measuring_and_nothing_is_published(folder: Path, api: Api) -> None:
    (folder / "evaluate.py").write_text(insert(EVALUATE, STAY))
    commit_all(folder)
    before = execute(folder, "git", "for-each-ref")
    settings = ("--set", "train.skill=160", "--set", "preprocess.own=40")
    process = start_pipeline(folder, api.url, "retrain", *settings)
    wait_until((folder / ".dvc/tmp/staying").exists)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert api.ended(api.last_run())["state"]["name"] == "Cancelled", output
    wait_until(lambda: not processes_under(folder))
    assert execute(folder, "git", "for-each-ref") == before
    assert [path.name for path in (folder / ".dvc/tmp/worktrees").iterdir()] == ["lock"]
    assert not (folder / ".dvc/tmp/verdicts").exists()
