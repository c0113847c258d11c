"""A small DVC workspace of Python scripts, for tests of processes and graphs without digits."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from pipeline.repository.processes import subprocess_environment

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
WAIT = 120.0  # seconds that a test waits for what happens within a few; no measure of speed


def execute(folder: Path, *command: str) -> str:
    result = subprocess.run(
        command, cwd=folder, env=subprocess_environment(), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def make_workspace(
    folder: Path,
    scripts: Mapping[str, str],
    before: Mapping[str, list[str]] | None = None,
    **meta: Any,
) -> Path:
    """Make a workspace with a stage for each script.

    Stage `name` runs name.py, which must write name.txt. It depends on the name.txt of the stages
    that `before` has for it.
    """
    stages = {
        name: {
            "cmd": f"python {name}.py",
            "deps": [f"{name}.py", *(f"{other}.txt" for other in (before or {}).get(name, []))],
            "outs": [f"{name}.txt"],
            "meta": meta,
        }
        for name in scripts
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "dvc.yaml").open("w", encoding="utf-8") as file:
        YAML().dump({"stages": stages}, file)
    for name, script in scripts.items():
        text = f"from pathlib import Path\n{script}\nPath('{name}.txt').write_text('{name}')\n"
        (folder / f"{name}.py").write_text(text)
    execute(folder, "git", "init", "--quiet")
    execute(folder, "dvc", "init", "--quiet")
    commit_all(folder)
    return folder


def commit_all(folder: Path) -> None:
    execute(folder, "git", "add", "--all")
    execute(folder, *GIT, "commit", "--quiet", "-m", "all")


# Models that are a number, the share of 200 test images that they read right, and take no time to
# train

MODEL_PARAMS = """\
train:
  skill: 150  # images read right
  shift: 0    # the first of them
gate:
  metric: accuracy
  minimum: 0.5
  largest_drop: 0.05
  significance: 0.01
"""
MODEL_GRAPH = """\
stages:
  train:
    cmd: python train.py
    deps: [train.py]
    params: [train]
    outs: [model.txt]
    plots: [reports/history.csv: {cache: false}]
  evaluate:
    cmd: python evaluate.py
    deps: [evaluate.py, model.txt]
    outs: [reports/predictions.csv]
    metrics: [reports/metrics.json: {cache: false}]
artifacts:
  toy: {path: model.txt, type: model}
"""
TRAIN = """
from pathlib import Path
from ruamel.yaml import YAML
params = YAML(typ="safe").load(Path("params.yaml").read_text())["train"]
Path("reports").mkdir(exist_ok=True)
Path("reports/history.csv").write_text(f"epoch,validation_accuracy\\n1,{params['skill'] / 200}\\n")
Path("model.txt").write_text(f"{params['skill']} {params['shift']}")
"""
EVALUATE = """
import json
from pathlib import Path
skill, shift = map(int, Path("model.txt").read_text().split())
rows = [f"{i},1,{int(shift <= i < shift + skill)},0.9" for i in range(200)]
header = "index,label,prediction,confidence"
Path("reports/predictions.csv").write_text("\\n".join([header, *rows, ""]))
Path("reports/metrics.json").write_text(json.dumps({"accuracy": skill / 200}))
"""


def make_model_workspace(folder: Path) -> Path:
    """A repository with nothing run yet, on the branch main."""
    (folder / "reports").mkdir(parents=True)
    files = {
        "params.yaml": MODEL_PARAMS,
        "dvc.yaml": MODEL_GRAPH,
        "train.py": TRAIN,
        "evaluate.py": EVALUATE,
    }
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    execute(folder, "git", "init", "--quiet", "--initial-branch", "main")
    execute(folder, "dvc", "init", "--quiet")
    commit_all(folder)
    return folder


# Writes the numbers of its process and of a child's, then stays; once there is a file "go" it just
# does its work
STAY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path("pids.partial").write_text(f"{os.getpid()} {child.pid}")
Path("pids.partial").rename("pids")
while not Path("go").exists():
    time.sleep(0.05)
child.kill()
"""


# Counts its attempts
ATTEMPTS = (
    "tries = Path('tries'); tries.write_text(tries.read_text() + '.' if tries.exists() else '.')\n"
)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def wait_for_pids(folder: Path) -> list[psutil.Process]:
    """The processes of the stage STAY, once it is there."""
    wait_until((folder / "pids").exists)
    return [psutil.Process(int(pid)) for pid in (folder / "pids").read_text().split()]


def assert_that_nothing_is_left(folder: Path, processes: list[psutil.Process]) -> None:
    """No process, no lock, and a workspace on which `dvc repro` simply goes on."""
    wait_until(
        lambda: (
            not any(process.is_running() and process.status() != "zombie" for process in processes)
        )
    )
    wait_until(lambda: not processes_in(folder))
    (folder / "go").touch()
    result = subprocess.run(
        ["dvc", "repro"], cwd=folder, env=subprocess_environment(), capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr


def processes_in(folder: Path) -> list[psutil.Process]:
    return find_processes(lambda process: Path(process.cwd()) == folder)


def processes_under(folder: Path, named: Collection[str] = ()) -> list[psutil.Process]:
    """Those at work in the folder or in one of its folders, of these names if there are any."""
    return find_processes(
        lambda process: (
            Path(process.cwd()).is_relative_to(folder) and (not named or process.name() in named)
        )
    )


def find_processes(condition: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """All that live and fulfil the condition, but this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.status() != "zombie" and condition(process):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
            continue
    return found


def start_pipeline(
    folder: Path,
    url: str,
    *arguments: str,
    home: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> "subprocess.Popen[str]":
    """Start `python -m pipeline ARGUMENTS` in `folder`, against the Prefect server at `url`.

    `home` is the folder where Prefect keeps its data.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=folder,
        env=subprocess_environment()
        | {"PREFECT_API_URL": url}
        | ({"PREFECT_HOME": str(home)} if home else {})
        | dict(variables or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# Three stages in a row, and what each of them needs

CHAIN = {"first": "", "second": "", "third": ""}
ORDER = {"second": ["first"], "third": ["second"]}


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)
