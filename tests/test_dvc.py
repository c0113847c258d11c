"""The graph as DVC runs it: what is declared, what runs again and what is restored."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import PARAMS, ROOT, STAGES, edit_params, repro
from pages import read_commands
from ruamel.yaml import YAML
from toy import commit_all, execute

from pipeline.paths import RECEIPT
from pipeline.repository.processes import subprocess_environment

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DVC_YAML: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))


def declared(stage: str) -> set[str]:
    return {dep for dep in DVC_YAML["stages"][stage]["deps"] if dep.startswith("pipeline/")}


def test_every_stage_has_one_name_everywhere() -> None:
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    modules = {path.stem for path in (ROOT / "pipeline" / "stages").glob("*.py")} - {"__init__"}
    tests = {
        path.stem.removeprefix("test_") for path in (ROOT / "tests" / "stages").glob("test_*.py")
    }
    assert set(DVC_YAML["stages"]) == set(params) - {"gate"} == modules == tests
    for name, stage in DVC_YAML["stages"].items():
        assert stage["cmd"] == f"python -m pipeline.stages.{name}"
        assert stage["params"] == (
            [name] if name != "report" else ["report", "preprocess", "train"]
        )


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_deps_are_the_modules_it_loads(stage: str) -> None:
    """A fresh interpreter lists them. Empty __init__ files are no deps."""
    program = (
        f"import runpy, sys; runpy.run_module('pipeline.stages.{stage}', run_name='loaded');"
        "assert 'prefect' not in sys.modules;"
        "print(*(m.__file__ for n, m in list(sys.modules.items()) if n.partition('.')[0] =="
        " 'pipeline'), sep='\\n')"
    )
    output = execute(ROOT, sys.executable, "-c", program)
    loaded = {
        str(Path(path).relative_to(ROOT))
        for path in output.splitlines()
        if Path(path).stat().st_size
    }
    loaded.add(f"pipeline/stages/{stage}.py")
    code = {dep for dep in declared(stage) if dep.endswith(".py")}
    assert (loaded - code, code - loaded) == (set(), set()), (
        "missing from, and superfluous in, deps of dvc.yaml"
    )


@pytest.mark.slow
def test_the_stages_tests_do_without_prefect() -> None:
    program = (
        "import sys, pytest; code = pytest.main(['tests/stages', '--collect-only', '--quiet',"
        " '-n0']);"
        "sys.exit(code or 'prefect' in sys.modules)"
    )
    execute(ROOT, sys.executable, "-c", program)


def test_the_packages_init_files_are_empty() -> None:
    assert [path for path in (ROOT / "pipeline").rglob("__init__.py") if path.stat().st_size] == []


def test_every_file_of_the_learning_part_is_a_dep_of_some_stage() -> None:
    """Except the one that reads with a trained model: no stage does."""
    files = {
        str(path.relative_to(ROOT))
        for room in ("stages", "mnist", "report")
        for path in (ROOT / "pipeline" / room).glob("*.*")
        if path.name != "__init__.py"
    }
    deps = set().union(*(declared(stage) for stage in STAGES))
    assert files - deps == {"pipeline/mnist/additions.py", "pipeline/mnist/predict.py"}


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_the_pinned_environment_is_a_dep(stage: str) -> None:
    assert "constraints.txt" in DVC_YAML["stages"][stage]["deps"]


def test_nothing_changed_runs_nothing(repository: Path) -> None:
    assert repro(repository) == ([], [])
    (repository / "README.md").write_text("changed")
    assert repro(repository) == ([], [])


@pytest.mark.parametrize(
    ("section", "name", "value", "stages"),
    [
        ("fetch", "timeout", 61, ["fetch"]),  # the same files: nothing after it is affected
        pytest.param("preprocess", "validation_size", 120, [*STAGES][1:], marks=pytest.mark.slow),
        ("train", "learning_rate", 0.002, ["train", "evaluate", "report"]),
        pytest.param(
            "evaluate", "calibration_bins", 3, ["evaluate", "report"], marks=pytest.mark.slow
        ),
        ("report", "mistakes", 2, ["report"]),
    ],
)
def test_a_changed_parameter_reruns_what_it_affects_and_changed_back_restores_it(
    repository: Path, section: str, name: str, value: Any, stages: list[str]
) -> None:
    original = (repository / "dvc.lock").read_bytes()
    edit_params(repository, section, name, value)
    assert repro(repository) == (stages, [])
    edit_params(repository, section, name, PARAMS[section][name])
    assert repro(repository) == ([], stages)
    assert (repository / "dvc.lock").read_bytes() == original
    assert (
        execute(repository, "git", "status", "--porcelain", "--untracked-files=no", "--", "reports")
        == ""
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_changed_stage_that_writes_the_same_reruns_alone(repository: Path, stage: str) -> None:
    path = repository / f"pipeline/stages/{stage}.py"
    path.write_text(path.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert repro(repository) == ([stage], [])


def test_metrics_params_and_plots_are_what_dvc_shows(repository: Path) -> None:
    edit_params(repository, "evaluate", "calibration_bins", 2)
    execute(repository, "dvc", "repro", "--single-item", "evaluate")
    receipt = json.loads((repository / RECEIPT).read_text(encoding="utf-8"))
    receipt[0]["threads"] += 1
    (repository / RECEIPT).write_text(json.dumps(receipt), encoding="utf-8")
    metrics = execute(repository, "dvc", "metrics", "diff")
    assert "receipt" not in metrics, "it holds no metrics"
    assert re.search(
        r"reports/metrics.json\s+expected_calibration_error(\s+-?0\.\d+){3}\s", metrics
    )
    assert re.search(
        r"params.yaml\s+evaluate.calibration_bins\s+15\s+2",
        execute(repository, "dvc", "params", "diff"),
    )
    plots = subprocess.run(
        ["dvc", "plots", "show"],
        cwd=repository,
        env=subprocess_environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    assert "failed" not in plots.stderr
    html = (repository / "dvc_plots" / "index.html").read_text(encoding="utf-8")
    assert all(title in html for title in ("Loss", "Validation accuracy", "Confusion matrix"))


@pytest.mark.slow
def test_plots_diff_draws_curves_and_mistakes_without_a_network(
    repository: Path, browser: "Browser"
) -> None:
    from browser import DESKTOP, Visit

    edit_params(repository, "report", "mistakes", 2)
    assert repro(repository) == (["report"], [])
    commit_all(repository)
    execute(repository, "dvc", "plots", "diff", "HEAD~1")
    visit = Visit(browser, repository / "dvc_plots" / "index.html", DESKTOP)
    visit.page.locator("canvas").nth(3).wait_for()
    drawn = visit.page.locator("canvas").evaluate_all(
        "all => all.map(canvas => canvas.toDataURL().length)"
    )
    assert [size > 10_000 for size in drawn] == [
        True
    ] * 4  # loss, confusion matrix, reliability, accuracy
    widths = visit.page.locator("img").evaluate_all("all => all.map(image => image.naturalWidth)")
    assert [width > 1000 for width in widths] == [True] * 2
    images = {f"{revision}_reports_mistakes.png" for revision in ("HEAD~1", "workspace")}
    assert {Path(url).name for url in visit.loaded()} == {"index.html", *images}
    assert all(url.startswith("file:") for url in visit.loaded())
    assert [line for line in visit.said if line.startswith("error")] == []
    visit.context.close()


def test_the_documented_way_back_leads_back(repository: Path) -> None:
    """DVC has staged dvc.lock, so Git must take it from HEAD."""
    [back] = [c for c in read_commands("docs/experiments.md") if c.text.startswith("git checkout")]
    edit_params(repository, "evaluate", "calibration_bins", 2)
    assert repro(repository) == (["evaluate", "report"], [])
    execute(repository, "sh", "-c", back.text)
    assert execute(repository, "git", "status", "--porcelain") == ""
    assert repro(repository) == ([], [])


def test_an_experiment_runs_and_is_listed(repository: Path) -> None:
    output = execute(
        repository, "dvc", "exp", "run", "--name", "shorter", "-S", "report.mistakes=2"
    )
    assert re.findall(r"Running stage '(\w+)'", output) == ["report"]
    assert "shorter" in execute(repository, "dvc", "exp", "show", "--csv")


def test_a_failing_stage_stops_with_its_line_and_leaves_the_lock(repository: Path) -> None:
    edit_params(repository, "train", "batch_size", 0)
    before = (repository / "dvc.lock").read_bytes()
    result = subprocess.run(
        ["dvc", "repro"],
        cwd=repository,
        env=subprocess_environment(),
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "error: params.yaml: train.batch_size must be greater than 0, got 0" in result.stderr
    assert (repository / "dvc.lock").read_bytes() == before
