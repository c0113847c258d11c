"""Machines that share data, models and runs over SSH and through an S3 bucket, in real servers.

Also what stands in the way: a server that is away, refuses the key or is full.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers import edit_params
from pages import read_commands
from prefect_api import Api, finish, free_port, message
from servers import BUCKET, s3_server, ssh_server
from toy import append, commit_all, execute, make_model_workspace, start_pipeline, wait_until

pytestmark = pytest.mark.slow

SECRET = "a-secret-that-nobody-may-see"


class Storage(NamedTuple):
    """A remote of DVC: what a commit may say of it, and what stays on the machine."""

    url: str
    settings: dict[str, str]
    secrets: dict[str, str]

    def configure(self, folder: Path) -> None:
        execute(folder, "dvc", "remote", "add", "--default", "storage", self.url)
        for name, value in self.settings.items():
            execute(folder, "dvc", "remote", "modify", "storage", name, value)
        self.log_in(folder)

    def log_in(self, folder: Path) -> None:
        for name, value in self.secrets.items():
            execute(folder, "dvc", "remote", "modify", "--local", "storage", name, value)


def make_storage(kind: str, folder: Path, stack: ExitStack, fault: str = "") -> Storage:
    """Start a server and return its remote; `fault` is away, refused or full."""
    port = free_port() if fault == "away" else None
    if kind == "s3":
        if not port:
            port = stack.enter_context(s3_server(refuses=fault == "refused"))
        return make_bucket(port)
    server = stack.enter_context(ssh_server(folder))
    key = server.stranger if fault == "refused" else server.key
    path = folder / "storage"
    if fault == "full":
        path.mkdir()
        mount_small_disk(path, stack)
    server = server._replace(port=port or server.port)
    return Storage(server.url(path), {}, {"keyfile": str(key)})


def make_bucket(port: int) -> Storage:
    settings = {"endpointurl": f"http://127.0.0.1:{port}", "region": "us-east-1"}
    secrets = {"access_key_id": "key", "secret_access_key": SECRET}
    return Storage(f"s3://{BUCKET}/models", settings, secrets)


def mount_small_disk(path: Path, stack: ExitStack) -> None:
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    stack.callback(subprocess.run, ["umount", str(path)], check=True)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def first(tmp_path: Path) -> Path:
    folder = make_model_workspace(tmp_path / "first")
    execute(tmp_path, "git", "init", "--quiet", "--bare", "remote.git")
    execute(folder, "git", "remote", "add", "origin", "../remote.git")
    return folder


def retrain(folder: Path, api: Api) -> tuple[dict[str, Any], str]:
    """Retrain to the end; return the flow run and what it printed."""
    before = {run["id"] for run in api.runs()}
    process = start_pipeline(folder, api.url, "retrain", "--push", "origin")
    output, _ = process.communicate()
    return api.ended(api.last_run(before)), output


def refs(folder: Path) -> str:
    return execute(folder, "git", "for-each-ref", "--format=%(refname) %(objectname)")


@pytest.mark.parametrize("kind", ["ssh", "s3"])
def test_what_one_machine_has_run_and_published_another_restores(
    first: Path, api: Api, stack: ExitStack, kind: str
) -> None:
    storage = make_storage(kind, first.parent, stack)
    storage.configure(first)
    commit_all(first)
    execute(first, "git", "push", "--quiet", "origin", "main")
    flow_run, output = retrain(first, api)
    assert flow_run["state"]["name"] == "Published", output
    second = first.parent / "second"
    execute(first.parent, "git", "clone", "--quiet", "--branch", "main", "remote.git", str(second))
    storage.log_in(second)
    flow_run, output = retrain(second, api)
    assert flow_run["state"]["name"] == "Unchanged", output
    assert "Running stage" not in output, output
    execute(second, "git", "checkout", "--quiet", "champion")
    execute(second, "dvc", "pull")
    assert (second / "model.txt").exists()
    assert SECRET not in output + execute(second, "git", "log", "-p", "--all")


def test_what_a_bucket_that_went_away_did_not_get_is_published_once_it_is_back(
    first: Path, api: Api, stack: ExitStack
) -> None:
    """It goes while a model is trained. The next retraining restores that model."""
    here, go = first.parent / "here", first.parent / "go"
    wait = f"""
import pathlib, time
pathlib.Path({str(here)!r}).touch()
while not pathlib.Path({str(go)!r}).exists():
    time.sleep(0.05)
"""
    append(first / "train.py", wait)
    port = free_port()
    with s3_server(port):
        make_bucket(port).configure(first)
        commit_all(first)
        before = refs(first)
        process = start_pipeline(first, api.url, "retrain", "--push", "origin")
        wait_until(here.exists)
    go.touch()
    output = finish(process)
    flow_run = api.last_run()
    assert flow_run["state"]["name"] == "Failed", output
    assert message(flow_run).count("\n") == 0, message(flow_run)
    assert "Traceback" not in output, output
    assert refs(first) == before
    with s3_server(port):
        flow_run, output = retrain(first, api)
    assert flow_run["state"]["name"] == "Published", output
    expected = {"train": "Restored", "evaluate": "Restored"}
    assert api.states(flow_run, expected) == expected


def test_a_lost_storage_is_filled_again_from_the_workers_folder(
    first: Path, api: Api, stack: ExitStack
) -> None:
    """As docs/team.md says: with all that it has published."""
    storage = make_storage("ssh", first.parent, stack)
    storage.configure(first)
    commit_all(first)
    for skill in (160, 180):
        edit_params(first, "train", "skill", skill)
        commit_all(first)
        flow_run, output = retrain(first, api)
        assert flow_run["state"]["name"] == "Published", output
    execute(first, "git", "push", "--quiet", "origin", "main")
    shutil.rmtree(first.parent / "storage")
    (refill,) = [c.text for c in read_commands("docs/team.md") if c.text.startswith("dvc push")]
    execute(first, *refill.split())
    second = first.parent / "second"
    execute(first.parent, "git", "clone", "--quiet", "--branch", "main", "remote.git", str(second))
    storage.log_in(second)
    for version, right in (("toy@v1.0.0", 160), ("toy@v1.1.0", 180)):
        execute(second, "git", "checkout", "--quiet", version)
        execute(second, "dvc", "pull")
        assert str(right) in (second / "model.txt").read_text()


@pytest.mark.parametrize(
    ("kind", "fault"),
    [("ssh", "away"), ("s3", "away"), ("ssh", "refused"), ("s3", "refused"), ("ssh", "full")],
)
def test_nothing_is_published_without_the_storage_and_a_line_says_why(
    first: Path, api: Api, stack: ExitStack, kind: str, fault: str
) -> None:
    append(first / "train.py", "with open('model.txt', 'a') as file: file.write(' ' * 200_000)\n")
    storage = make_storage(kind, first.parent, stack, fault)
    storage.configure(first)
    commit_all(first)
    before = refs(first)
    flow_run, output = retrain(first, api)
    assert flow_run["state"]["name"] == "Failed", output
    assert message(flow_run).count("\n") == 0, message(flow_run)
    assert "Traceback" not in output
    assert refs(first) == before
    assert refs(first.parent / "remote.git") == ""
    assert SECRET not in output
