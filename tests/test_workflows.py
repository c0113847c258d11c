"""What runs on GitHub: the workflows are valid, and their steps are targets that work here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, edit_params
from ruamel.yaml import YAML

from pipeline.paths import REPORT
from pipeline.repository.processes import subprocess_environment

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def jobs() -> list[dict[str, Any]]:
    return [
        job
        for path in WORKFLOWS
        for job in YAML(typ="safe").load(path.read_text(encoding="utf-8"))["jobs"].values()
    ]


def make(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run make with the environment of these tests."""
    (folder / ".venv").mkdir(exist_ok=True)
    (folder / ".venv" / "complete").touch()
    command = ["make", "--silent", f"PYTHON={sys.executable}", *arguments]
    return subprocess.run(
        command, cwd=folder, env=subprocess_environment(), capture_output=True, text=True
    )


def test_github_would_take_the_workflows() -> None:
    schema = ["check-jsonschema", "--builtin-schema", "vendor.github-workflows"]
    result = subprocess.run([*schema, *WORKFLOWS], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_step_is_an_action_or_a_target_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for step in [step for job in jobs() for step in job["steps"]]:
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
        else:
            (target,) = re.findall(r"^make (?:--silent )?([a-z]+)", step["run"])
            assert target in targets


def test_the_pythons_are_those_that_the_package_names() -> None:
    tested = {version for job in jobs() for version in matrix_of(job)}
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest = re.search(r'requires-python = ">=(.+)"', text)
    assert oldest
    assert min(tested, key=lambda version: int(version.split(".")[1])) == oldest[1]


def matrix_of(job: dict[str, Any]) -> list[str]:
    return list(job.get("strategy", {}).get("matrix", {}).get("python", []))


@pytest.mark.slow
def test_a_review_says_what_runs_and_what_changes(repository: Path) -> None:
    edit_params(repository, "train", "epochs", 1)
    result = make(repository, "review", "BASE=HEAD")
    assert result.returncode == 0, result.stderr
    plan, parameters, metrics = result.stdout.split("\n## ")
    assert plan.startswith("## Plan\n\n```text\n")
    assert re.search(r"^train +run +params.yaml train.epochs 2 → 1$", plan, re.M)
    assert "| params.yaml | train.epochs | 2 | 1 |" in re.sub(" +", " ", parameters)
    assert re.search(r"^\| reports/metrics.json +\| accuracy ", metrics, re.M)
    assert "Running stage 'train'" in result.stderr


def test_a_run_ends_with_a_link_to_the_report(repository: Path, tmp_path: Path) -> None:
    """A terminal opens it, whatever the folder is called and the locale."""
    folder = repository.rename(tmp_path / "a digit, é")
    result = make(folder, "run", "LC_ALL=C")
    assert result.returncode == 0, result.stderr
    *_, blank, last = result.stdout.splitlines()
    address = last.removeprefix("The report: ")
    assert (blank, address) == ("", (folder / REPORT).as_uri())
    assert address.endswith("/a%20digit%2C%20%C3%A9/reports/index.html")
    assert re.search(r"^accuracy +0\.\d{4}$", result.stdout, re.M)


@pytest.mark.parametrize("base", ["nowhere", "HEAD:dvc.yaml"])
def test_a_base_that_is_no_commit_is_a_line(repository: Path, base: str) -> None:
    result = make(repository, "review", f"BASE={base}")
    assert result.returncode == 2
    line, *rest = result.stderr.splitlines()
    assert line == f"BASE={base} is no commit here; git fetch it, or name another"
    assert all(re.match(r"make(\[\d+\])?: ", text) for text in rest)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("answering", "expected"),
    [
        (("docker", "podman"), "podman build --no-cache --tag mnist ."),
        (("docker", "buildah"), "docker build --no-cache --tag mnist ."),
        (("buildah",), "buildah build --layers --no-cache --tag mnist ."),
        ((), "image: neither podman, docker's daemon nor buildah answers here; install one"),
    ],
)
def test_the_image_is_built_by_what_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answering: tuple[str, ...], expected: str
) -> None:
    """Docker's client alone, without a daemon, is nothing that builds."""
    for name in ("podman", "docker", "buildah"):
        code = int(name not in answering)
        (tmp_path / name).write_text(f'#!/bin/sh\n[ "$1" = build ] || exit {code}\n')
        (tmp_path / name).chmod(0o755)
    shutil.copy2(ROOT / "Makefile", tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    result = make(tmp_path, "image", "IMAGE_OPTIONS=--no-cache")
    said = [line.removeprefix("+ ") for line in result.stderr.splitlines()]
    assert expected in said
    assert (result.returncode == 0) == bool(answering)
