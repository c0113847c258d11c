"""The pages of documentation: links lead somewhere, what they name exists, cheap commands run.

Each command of a console block is in one of two lists below: RUN, or NOT_RUN with the reason.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, edit_params
from pages import (
    PAGES,
    defines,
    read_code_spans,
    read_commands,
    read_headings,
    read_links,
    read_page,
    read_prose,
    to_anchor,
)
from ruamel.yaml import YAML
from toy import GIT, execute

from pipeline.cli import main
from pipeline.repository.processes import subprocess_environment

UNREADABLE = "error: README.md is not an image that can be read, such as PNG or JPEG"
SAMPLE = "-S fetch.dataset=sample -S fetch.directory=tests/data -S preprocess.validation_size=100"

NOTEBOOK = "':/^Train the notebook'"

# Each with a part of what it prints, here and on its page
RUN = {
    "mnist predict docs/five.jpg reports/mistakes.png README.md": UNREADABLE,
    "mnist plan": "preprocess  skip      unchanged",
    "mnist models": "",
    "dvc repro": "Stage 'preprocess' didn't change, skipping",
    "dvc repro fetch": "'fetch'",
    "dvc params diff ':/^Train the notebook'": "params.yaml  train.batch_size",
    f"dvc metrics diff {NOTEBOOK} --targets reports/metrics.json | grep -v per_class": "  accuracy",
    "dvc exp show --only-changed --drop '.*(per_class|/).*' --md": "| workspace ",
    "git checkout HEAD . && dvc checkout": "",
    f"dvc exp run --queue {SAMPLE} -S train.learning_rate=0.002,0.004": "Queued experiment",
    "dvc queue status": "Worker status:",
    "dvc plots show": "dvc_plots/index.html",
    "dvc remote add --default storage ../storage": "Setting 'storage' as a default remote.",
    'git add .dvc/config && git commit --message "Add a remote"': "",
    "dvc push": " files pushed",
    "dvc pull": "",
}
EXIT_CODES = {"mnist predict docs/five.jpg reports/mistakes.png README.md": 3}

LONG = "it takes long"
SERVER = "it needs a Prefect server; tests of the flow, of retraining and of sweeps run the same"
FAULTY = "params.yaml must be wrong for it; tests of the parameters and of the sources do that"
VERSIONS = "it needs two versions; tests of the champion make them"
TEAM = "it needs a team's servers; tests of postgres, authentication and remotes do the same"
IMAGES = "it needs images, or a folder of them; tests of the command add, and of batches, do this"
IMAGE = "it needs the image; make image-test does the same"
NOT_RUN = {
    "mnist add scans": IMAGES,
    "mnist add scans --commit": IMAGES,
    "dvc import-url /srv/scans data/own/scans": IMAGES,
    'git commit --message "Import the scans" data/own/scans.dvc': IMAGES,
    "dvc update data/own/scans.dvc": IMAGES,
    "git rm data/own/scans.dvc && dvc checkout": IMAGES,
    'git commit --message "Take the scans away"': IMAGES,
    "git revert --no-edit HEAD && dvc checkout": IMAGES,
    ".venv/bin/mnist predict docs/five.jpg": "the command of docs/data.md reads more than this",
    "make run": LONG,
    "make setup": LONG,
    "make serve": "it serves until Ctrl-C",
    "mnist serve": "it serves until Ctrl-C",
    "mnist run": SERVER,
    "mnist retrain --set train.muon.learning_rate=0.01": SERVER,
    "mnist retrain --update": SERVER,
    "mnist retrain --approve": SERVER,
    'curl --json \'{"run_input": {"approve": true, "name": "Ann"}}\''
    " http://127.0.0.1:4200/api/flow_runs/6de66b7c-2c70-4c43-b2ca-5eaa80c249de/resume": SERVER,
    "mnist sweep --set train.learning_rate=0.002,0.004 --set train.batch_size=64,128": SERVER,
    "mnist verify": f"{LONG}; the faults run it",
    "mnist promote v1.0.0": VERSIONS,
    "dvc artifacts get . mnist-cnn --stage prod --out model.safetensors": VERSIONS,
    "dvc exp run -S train.muon.learning_rate=0.01": LONG,
    f"dvc exp run --temp {SAMPLE} -S train.batch_size=16": LONG,
    "dvc exp run $(cat benchmarks/quick_recipe.txt)": LONG,
    "dvc exp run --temp -S train.optimizer=adam -S train.muon=null -S train.schedule=constant"
    " -S train.warm_up=0 -S train.label_smoothing=0 -S train.calibrate=false"
    " -S 'train.distortion={rotation: 0, scaling: 0, shear: 0, translation: 0, elastic: 0}'"
    " -S train.learning_rate=0.001 -S train.batch_size=64 -S train.epochs=5": LONG,
    "dvc queue start -j 2": "its workers go on in the background",
    "python -m pipeline.stages.train  # with batch_size: 0 in params.yaml": FAULTY,
    "python -m pipeline.stages.fetch  # with sources: [directory] in params.yaml": FAULTY,
    "prefect server start &": SERVER,
    "prefect work-pool create mnist --type process": SERVER,
    "MNIST_WORKSPACE=$PWD prefect deploy --name pool": SERVER,
    "MNIST_WORKSPACE=$PWD prefect worker start --pool mnist --limit 1": SERVER,
    "sudo apt-get install postgresql": TEAM,
    "sudo -u postgres createuser --pwprompt prefect": TEAM,
    "sudo -u postgres createdb --owner prefect prefect": TEAM,
    "export PREFECT_SERVER_DATABASE_CONNECTION_URL=postgresql+asyncpg://prefect:PASSWORD"
    "@127.0.0.1/prefect": TEAM,
    "export PREFECT_SERVER_API_AUTH_STRING=team:PASSWORD": TEAM,
    "prefect server start": TEAM,
    "export PREFECT_API_URL=http://127.0.0.1:4200/api": TEAM,
    "export PREFECT_API_AUTH_STRING=team:PASSWORD": TEAM,
    "export PREFECT_MESSAGING_BROKER=prefect_redis.messaging": TEAM,
    "export PREFECT_MESSAGING_CACHE=prefect_redis.messaging": TEAM,
    "export PREFECT_SERVER_EVENTS_CAUSAL_ORDERING=prefect_redis.ordering": TEAM,
    "export PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect_redis.lease_storage": TEAM,
    "export PREFECT_REDIS_MESSAGING_URL=redis://127.0.0.1:6379/0": TEAM,
    "export PREFECT_SERVER_DOCKET_URL=redis://127.0.0.1:6379/0": TEAM,
    "dvc remote add --default storage ssh://user@host/srv/mnist": TEAM,
    "dvc remote modify --local storage keyfile ~/.ssh/id_ed25519": TEAM,
    "dvc remote add --default storage s3://bucket/mnist": TEAM,
    "dvc remote modify storage endpointurl https://host": TEAM,
    "dvc remote modify --local storage access_key_id KEY": TEAM,
    "dvc remote modify --local storage secret_access_key SECRET": TEAM,
    "dvc push --all-branches --all-tags --run-cache": TEAM,
    "git clone git@host:team/mnist.git && cd mnist && make setup": TEAM,
    "mnist serve --push origin": TEAM,
    "make image": IMAGE,
    "podman run --rm --pid host --user $(id -u):$(id -g) --volume $PWD:$PWD --workdir $PWD"
    " mnist dvc repro": IMAGE,
    "podman system service --time 0 unix:///run/podman/podman.sock &": IMAGE,
    "export DOCKER_HOST=unix:///run/podman/podman.sock": IMAGE,
    "prefect work-pool create mnist-containers --type docker": IMAGE,
    "MNIST_WORKSPACE=$PWD MNIST_USER=$(id -u):$(id -g) prefect deploy --name container": IMAGE,
    "prefect worker start --pool mnist-containers --limit 1": IMAGE,
    "source .venv/bin/activate": "it changes the shell that it is typed in",
    "pre-commit install": "it writes a Git hook",
}

# What is named and is no file of the repository: a run makes it, or a user
MADE = (
    ".checkpoints",
    ".dvc/config.local",
    ".dvc/tmp/flow-runs",
    ".dvc/tmp/verdicts",
    ".venv",
    "data/source",
    "sweeps",
)
PLACEHOLDERS = re.compile(r"ROOM|MODULE|NAME|FOLDER")
COMMITTER = {
    f"GIT_{role}_{part}": "test@localhost"
    for role in ("AUTHOR", "COMMITTER")
    for part in ("NAME", "EMAIL")
}


def code_of(page: str) -> list[str]:
    return [*read_code_spans(page), *(command.text for command in read_commands(page))]


def first_shown(page: str) -> list[str]:
    """The commands to run that no page before this one shows."""
    before = {c.text for other in PAGES[: PAGES.index(page)] for c in read_commands(other)}
    return [c.text for c in read_commands(page) if c.text in RUN.keys() - before]


def test_the_readme_is_short() -> None:
    assert len(read_page("README.md").splitlines()) <= 160


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_every_link_leads_somewhere(page: str) -> None:
    links = read_links(page)
    assert links
    for path, anchor in links:
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        if anchor:
            headings = read_headings(str(target.resolve().relative_to(ROOT)))
            assert anchor in map(to_anchor, headings), f"{path}#{anchor}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_a_page_begins_with_the_list_of_its_parts(page: str) -> None:
    listed = re.findall(r"^- \[(.+)\]\(#(.+)\)$", read_prose(page), re.MULTILINE)
    assert listed == [(heading, to_anchor(heading)) for heading in read_headings(page, "##")]


def test_the_readme_links_to_every_page() -> None:
    linked = {path for path, _ in read_links("README.md")}
    assert {*PAGES, "CHANGELOG.md"} - linked == {"README.md"}


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page: str) -> None:
    listed = execute(ROOT, "make", "--no-print-directory").splitlines()
    named = {found for code in code_of(page) for found in re.findall(r"^make (\w[\w-]*)", code)}
    assert named <= {line.split()[0] for line in listed}


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_is_run_exists(page: str) -> None:
    for module in re.findall(r"python -m ((?:pipeline|benchmarks)[\w.]*)", read_page(page)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_mnist_exists_with_its_options(
    page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for code in code_of(page):
        for command, rest in re.findall(r"(?:^|/)mnist ([a-z]+)(.*)", code):
            monkeypatch.setattr("sys.argv", ["mnist", command, "--help"])
            with pytest.raises(SystemExit) as ended:
                main()
            assert ended.value.code == 0, code
            known = re.findall(r"--[a-z-]+", capsys.readouterr().out)
            assert set(re.findall(r"--[a-z-]+", rest)) <= set(known), code


@pytest.mark.parametrize("page", PAGES)
def test_every_path_in_backticks_exists(page: str) -> None:
    """So does what a path is said to define, as in `path.py:name`."""
    stages: dict[str, Any] = YAML(typ="safe").load(read_page("dvc.yaml"))["stages"]
    kinds = ("outs", "metrics", "plots")
    declared = [out for stage in stages.values() for kind in kinds for out in stage.get(kind, [])]
    outs = {next(iter(out)) if isinstance(out, dict) else out for out in declared}
    roots = {path.name for path in ROOT.iterdir()} | {path.split("/")[0] for path in (*outs, *MADE)}
    for span in read_code_spans(page):
        path, _, name = span.partition(":")
        is_path = re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", path) and path.split("/")[0] in roots
        if is_path and not PLACEHOLDERS.search(path):
            is_made = path.rstrip("/") in outs or path.startswith(MADE)
            assert is_made or (ROOT / path).exists(), span
            assert not name or defines(ROOT / path, name), span


@pytest.mark.parametrize("page", PAGES)
def test_every_parameter_named_exists(page: str) -> None:
    params: dict[str, dict[str, Any]] = YAML(typ="safe").load(read_page("params.yaml"))
    for code in code_of(page):
        for section, name in re.findall(r"(?<![\w./])([a-z]+)\.([a-z_]+)(?=$|=)", code):
            assert section not in params or name in params[section], code


@pytest.mark.parametrize("page", PAGES)
def test_a_file_defines_what_it_is_said_to(page: str) -> None:
    said = re.findall(r"((?:`\w+`(?:, | and )?)+) in `(\w+(?:/\w+)+\.py)`", read_prose(page))
    for names, path in said:
        for name in re.findall(r"`(\w+)`", names):
            assert defines(ROOT / path, name), f"{name} in {path}"


def test_pre_commit_lints_what_make_test_does() -> None:
    config = YAML(typ="safe").load(read_page(".pre-commit-config.yaml"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}  # nothing is fetched
    assert {hook["language"] for hook in hooks} == {"system"}
    [recipe] = re.findall(r"^test:.*\n((?:\t.*\n)+)", read_page("Makefile"), re.MULTILINE)
    linted = [line.strip() for line in recipe.splitlines() if "pytest" not in line]
    assert [hook["entry"] for hook in hooks] == linted


def test_every_command_is_run_or_has_a_reason_not_to_be() -> None:
    shown = {command.text for page in PAGES for command in read_commands(page)}
    assert (shown - RUN.keys() - NOT_RUN.keys(), (RUN | NOT_RUN).keys() - shown) == (set(), set())
    assert RUN.keys().isdisjoint(NOT_RUN)


def test_what_a_command_prints_is_on_its_page() -> None:
    for text, part in RUN.items():
        outputs = [c.output for page in PAGES for c in read_commands(page) if c.text == text]
        assert any(part in output for output in outputs), text


@pytest.fixture
def documented(repository: Path) -> Path:
    """A repository with the notebook's recipe in its history, as this one has it."""
    metrics = repository / "reports" / "metrics.json"
    worse = json.loads(metrics.read_text(encoding="utf-8")) | {"accuracy": 0.1}
    metrics.write_text(json.dumps(worse), encoding="utf-8")
    edit_params(repository, "train", "batch_size", 64)
    execute(repository, *GIT, "commit", "--quiet", "--all", "-m", "Train the notebook's recipe")
    execute(repository, "git", "checkout", "--quiet", "HEAD~1", ".")
    execute(repository, *GIT, "commit", "--quiet", "-m", "Train this recipe")
    return repository


@pytest.mark.parametrize("page", [page for page in PAGES if first_shown(page)])
def test_the_cheap_commands_of_a_page_run(page: str, documented: Path) -> None:
    """In the order of the page; the console script stands for itself where it is installed."""
    variables = subprocess_environment() | COMMITTER
    mnist = "mnist" if shutil.which("mnist", path=variables["PATH"]) else "python -m pipeline"
    for text in first_shown(page):
        result = subprocess.run(
            re.sub(r"^mnist\b", mnist, text),
            shell=True,
            cwd=documented,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == EXIT_CODES.get(text, 0), f"{text}\n{result.stdout}"
        assert RUN[text] in result.stdout, f"{text}\n{result.stdout}"
