"""The image, and flow runs in containers of it: make image-test.

Podman builds and runs it, as root. Where IMAGE_OPTIONS names no BASE, debootstrap makes one.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import ROOT, STAGES, edit_params
from prefect_api import Api, deploy, finish, message, start_worker
from sample import make_repository
from toy import (
    GIT,
    STAY,
    commit_all,
    execute,
    find_processes,
    make_workspace,
    wait_until,
)

pytestmark = pytest.mark.image

IMAGE, BASE, POOL = "localhost/mnist-test", "localhost/mnist-test-base", "mnist-containers"
USER = "4321:4321"  # owns the workspace, and has no entry in the image's /etc/passwd
PROGRAMS = ("podman", "debootstrap")
CONTEXT = ("Dockerfile", ".dockerignore", "Makefile", "pyproject.toml", "constraints.txt")


def podman(*arguments: str) -> str:
    return execute(ROOT, "podman", *arguments).strip()


def run_in(folder: Path, *command: str) -> str:
    """Run a command in a container, in a folder that it has at the same path."""
    where = ("--volume", f"{folder}:{folder}", "--workdir", str(folder))
    return podman("run", "--rm", "--pid", "host", "--user", USER, *where, IMAGE, *command)


def build(context: Path, options: str) -> float:
    """Return how many seconds it took."""
    command = ["make", "image", f"IMAGE={IMAGE}", f"IMAGE_OPTIONS={options}"]
    started = time.monotonic()
    result = subprocess.run(command, cwd=context, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return time.monotonic() - started


def inspect_image() -> dict[str, Any]:
    (found,) = json.loads(podman("image", "inspect", IMAGE))
    return dict(found)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What IMAGE_OPTIONS says, and a base."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing or os.geteuid():
        pytest.fail(f"needs root, and {' and '.join(PROGRAMS)}; Debian has packages of these names")
    given = os.environ.get("IMAGE_OPTIONS", "")
    if "BASE=" in given:
        return given
    if subprocess.run(["podman", "image", "exists", BASE]).returncode:
        folder = tmp_path_factory.mktemp("base")
        execute(folder, "debootstrap", "--variant=minbase", "bookworm", "root")
        execute(folder, "tar", "--create", "--file", "root.tar", "--directory", "root", ".")
        podman("import", str(folder / "root.tar"), BASE)
        shutil.rmtree(folder)
    return f"{given} --build-arg BASE={BASE}"


@pytest.fixture(scope="module")
def image(options: str) -> str:
    build(ROOT, options)
    return options


@pytest.fixture
def workspace_of_user(image: str, tmp_path: Path) -> Path:
    """A repository of this code on the sample, of a user who is not this one; nothing has run."""
    folder = tmp_path / "workspace"
    make_repository(folder)
    edit_params(folder, "fetch", "directory", "tests/data")
    edit_params(folder, "train", "epochs", 5)
    commit_all(folder)
    give_to_user(folder)
    return folder


def give_to_user(folder: Path) -> None:
    execute(folder, "chown", "--recursive", USER, str(folder))


def others_files(folder: Path) -> str:
    uid = USER.partition(":")[0]
    return execute(folder, "find", str(folder), "-not", "-uid", uid)


def test_the_image_runs_mnist_as_nobody_in_particular(
    image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        print(f"the image: {inspect_image()['Size'] / 1e9:.2f} GB")
    assert podman("run", "--rm", IMAGE).startswith("usage: mnist ")
    assert podman("run", "--rm", IMAGE, "mnist", "--help").startswith("usage: mnist ")
    assert podman("run", "--rm", IMAGE, "id", "--user") == "1000"


def test_a_change_of_code_makes_one_layer_again(
    image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = inspect_image()["RootFS"]["Layers"]
    for name in CONTEXT:
        shutil.copy2(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline")
    with (tmp_path / "pipeline" / "errors.py").open("a", encoding="utf-8") as file:
        file.write(f"# {tmp_path}\n")
    seconds = build(tmp_path, image)
    after = inspect_image()["RootFS"]["Layers"]
    build(ROOT, image)
    with capsys.disabled():
        print(f"built again after a change of code: {seconds:.1f} s")
    assert len([one for one, other in zip(before, after, strict=True) if one != other]) == 1


def test_the_graph_runs_in_a_mounted_workspace(workspace_of_user: Path) -> None:
    output = run_in(workspace_of_user, "dvc", "repro")
    assert re.findall(r"Running stage '(\w+)'", output) == list(STAGES)
    output = run_in(workspace_of_user, "mnist", "plan")
    assert len(re.findall("skip +unchanged", output)) == len(STAGES)
    assert others_files(workspace_of_user) == ""


def test_the_workspace_of_another_can_be_read(workspace_of_user: Path) -> None:
    """Git and DVC take it, which they would refuse outside of a container."""
    where = ("--volume", f"{workspace_of_user}:/workspace")
    assert podman("run", "--rm", *where, IMAGE, "git", "log", "--format=%s") == "all"


@pytest.fixture
def socket(image: str, tmp_path: Path) -> Iterator[str]:
    """The address of podman's API."""
    path = tmp_path / "podman.sock"
    service = subprocess.Popen(["podman", "system", "service", "--time", "0", f"unix://{path}"])
    wait_until(path.exists)
    yield f"unix://{path}"
    service.terminate()
    service.wait()


class Containers:
    """A worker that runs the deployment `container` of a workspace: `with Containers(…): …`."""

    def __init__(self, folder: Path, api: Api, socket: str, **entrypoint: str) -> None:
        self.folder, self.api, self.names = folder, api, list[str]()
        changes = {
            "image: mnist\n": f"image: {IMAGE}\n",
            "timezone: UTC\n": "timezone: UTC\n        active: false\n",
            **entrypoint,
        }
        variables = deploy(folder, api, "container", (POOL, "docker"), changes, USER)
        give_to_user(folder)
        self.worker = start_worker(folder, variables | {"DOCKER_HOST": socket}, POOL)

    def start(self) -> dict[str, Any]:
        """Ask for a run."""
        (deployment,) = self.api.post("deployments/filter", {})
        run: dict[str, Any] = self.api.post(f"deployments/{deployment['id']}/create_flow_run", {})
        self.names.append(run["name"])
        return run

    def __enter__(self) -> "Containers":
        return self

    def __exit__(self, *error: object) -> None:
        for name in self.names:  # the worker would wait for them
            podman("rm", "--force", "--ignore", name)
        self.worker.terminate()
        print(finish(self.worker))


def assert_that_no_process_is_left(run: dict[str, Any]) -> None:
    """Processes in containers are this machine's, too."""
    marked = ("PREFECT__FLOW_RUN_ID", run["id"])
    wait_until(lambda: not find_processes(lambda process: marked in process.environ().items()))
    wait_until(lambda: container_state(run) == "exited")


def container_state(run: dict[str, Any]) -> str:
    return podman("inspect", "--format", "{{.State.Status}}", run["name"])


def test_a_run_in_a_container_publishes(workspace_of_user: Path, api: Api, socket: str) -> None:
    with Containers(workspace_of_user, api, socket) as containers:
        run = api.ended(containers.start())
        assert run["state"]["name"] == "Published", message(run)
        assert_that_no_process_is_left(run)
    assert others_files(workspace_of_user) == ""
    assert "mnist-cnn@v1.0.0" in run_in(workspace_of_user, "git", "tag")


def test_a_killed_container_is_a_crash_and_its_training_is_resumed(
    workspace_of_user: Path, api: Api, socket: str
) -> None:
    edit_params(workspace_of_user, "train", "epochs", 30)
    run_in(workspace_of_user, "git", *GIT[1:], "commit", "--all", "--quiet", "--message", "long")
    worktrees = workspace_of_user / ".dvc" / "tmp" / "worktrees"
    with Containers(workspace_of_user, api, socket) as containers:
        run = containers.start()
        wait_until(lambda: any(worktrees.glob("retrain-*/checkpoints/*.safetensors")))
        podman("kill", run["name"])
        crashed = api.ended(run)
        assert crashed["state"]["name"] == "Crashed"
        assert "exited with non-zero status code 137." in message(crashed)
        assert_that_no_process_is_left(run)
        assert run_in(workspace_of_user, "git", "tag") == "", "nothing is published"
        again = containers.start()
        assert re.search(r"resuming after epoch \d+ of 30", "\n".join(api.logs(again, "resuming")))
        assert api.ended(again)["state"]["name"] == "Published"
    assert others_files(workspace_of_user) == ""


@pytest.fixture
def staying(image: str, tmp_path: Path, api: Api, socket: str) -> Iterator[Containers]:
    """A worker for a workspace that is to be brought up to date itself; its stage stays."""
    folder = make_workspace(tmp_path / "toy", {"only": STAY})
    shutil.copytree(ROOT / "pipeline", folder / "pipeline")
    entrypoint = {
        "pipeline/release/retrain.py:retrain ": "pipeline/orchestration/flow.py:run_graph ",
        "update: true": "force: false",
    }
    with Containers(folder, api, socket, **entrypoint) as containers:
        yield containers


def test_a_run_that_is_cancelled_leaves_nothing(staying: Containers, api: Api) -> None:
    run = staying.start()
    wait_until((staying.folder / "pids").exists)
    cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    api.post(f"flow_runs/{run['id']}/set_state", cancelling)
    assert api.ended(run)["state"]["type"] == "CANCELLED"
    assert_that_no_process_is_left(run)
    assert_that_the_next_goes_on(staying, api)


def test_a_container_is_killed_at_work_in_the_workspace(staying: Containers, api: Api) -> None:
    """DVC's lock names a process of this machine, so that everybody can tell whether it lives."""
    run = staying.start()
    wait_until((staying.folder / "pids").exists)
    locks = json.loads((staying.folder / ".dvc" / "tmp" / "rwlock").read_text(encoding="utf-8"))
    assert locks["write"]
    for holder in locks["write"].values():
        assert psutil.Process(holder["pid"]).environ()["PREFECT__FLOW_RUN_ID"] == run["id"]
    podman("kill", run["name"])
    assert api.ended(run)["state"]["name"] == "Crashed"
    assert_that_no_process_is_left(run)
    assert_that_the_next_goes_on(staying, api)


def assert_that_the_next_goes_on(staying: Containers, api: Api) -> None:
    (staying.folder / "go").touch()
    give_to_user(staying.folder)
    done = api.ended(staying.start())
    assert api.states(done, {"only": "Completed"}) == {"only": "Completed"}, message(done)
    assert others_files(staying.folder) == ""
