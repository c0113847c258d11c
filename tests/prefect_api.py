"""A real Prefect server on loopback, and questions about what it shows."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
from helpers import ROOT
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from toy import WAIT, make_model_workspace, start_pipeline, wait_until

from pipeline.orchestration.server import is_healthy, server_at
from pipeline.repository.processes import subprocess_environment

T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_server(home: Path) -> Iterator["Api"]:
    url = f"http://127.0.0.1:{free_port()}/api"
    os.environ["PREFECT_HOME"] = str(home)
    with server_at(url):
        yield Api(url)


class KillableServer:
    """A server that can be killed, and started again on its database and its port."""

    def __init__(self, home: Path, variables: dict[str, str] | None = None) -> None:
        self.home, self.port, self.variables = home, free_port(), variables or {}
        self.api = Api(f"http://127.0.0.1:{self.port}/api")
        self.start()

    def start(self) -> None:
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(
            ["prefect", "server", "start", *where],
            env=subprocess_environment() | {"PREFECT_HOME": str(self.home)} | self.variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self.api.answers)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def calling(api: "Api") -> Iterator[None]:
    """Run flows of this process on that server.

    Waits at the end until their logs and events are sent, also if the flow raised an error. What is
    left would be sent when pytest exits. The server is gone by then, so Prefect would try again and
    again, and print an error for each batch.
    """
    with temporary_settings({PREFECT_API_URL: api.url}):
        try:
            yield
        finally:
            APILogWorker.drain_all()  # APILogHandler.flush waits 5 seconds at most
            EventsWorker.drain_all()


class Api:
    def __init__(self, url: str, auth: tuple[str, str] | None = None) -> None:
        self.url, self.auth = url, auth

    def answers(self) -> bool:
        return is_healthy(self.url)

    def request(self, method: str, path: str, content: Any = None) -> httpx.Response:
        """Ask, and ask again while the server answers 503.

        With that code Prefect's server says that its SQLite database was locked. It has changed
        nothing then, and expects its clients to ask again.
        """
        deadline = time.monotonic() + WAIT
        while True:
            response = httpx.request(
                method, f"{self.url}/{path}", json=content, timeout=WAIT, auth=self.auth
            )
            is_busy = response.status_code == httpx.codes.SERVICE_UNAVAILABLE
            if not is_busy or time.monotonic() > deadline:
                return response
            time.sleep(0.2)

    def post(self, path: str, content: dict[str, Any]) -> Any:
        response = self.request("POST", path, content)
        assert response.is_success, f"POST {path}: {response.status_code} {response.text}"
        return response.json()

    def clear(self) -> None:
        """Delete all deployments, so that they schedule no more runs, and then all runs."""
        for kind in ("automations", "deployments", "flow_runs"):
            while found := self.post(f"{kind}/filter", {}):
                for thing in found:
                    response = self.request("DELETE", f"{kind}/{thing['id']}")
                    assert response.status_code in (204, 404), response.text

    def runs(self, **filters: Any) -> list[dict[str, Any]]:
        """Flow runs, the newest first."""
        runs: list[dict[str, Any]] = self.post(
            "flow_runs/filter", {"sort": "START_TIME_DESC", "flow_runs": filters}
        )
        return runs

    def last_run(self, besides: Set[str] = frozenset()) -> dict[str, Any]:
        """The newest run that is not in `besides`, once the server has one."""
        return self.wait_for(lambda: [run for run in self.runs() if run["id"] not in besides])[0]

    def run_named(self, state: str, besides: Set[str] = frozenset()) -> dict[str, Any]:
        """The first run in the state of that name that is not in `besides`."""
        return self.wait_for(
            lambda: [
                run
                for run in self.runs(state={"name": {"any_": [state]}})
                if run["id"] not in besides
            ]
        )[-1]

    def run_waiting(self, besides: Set[str] = frozenset()) -> dict[str, Any]:
        """The first run that waits for a person, once it takes an answer."""
        run = self.run_named("Paused", besides)
        path = f"flow_runs/{run['id']}/input/paused-approval-1-description"
        self.wait_for(lambda: [1] if self.request("GET", path).is_success else [])
        return run

    def ended(self, run: dict[str, Any]) -> dict[str, Any]:
        """The run, once it is in a final state."""
        final = {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}
        return self.wait_for(lambda: self.runs(id={"any_": [run["id"]]}, state=final))[0]

    def tasks(self, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The run's tasks by name, the first to end first."""
        tasks = self.post("task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run["id"]]}}})
        return {
            task["name"]: task for task in sorted(tasks, key=lambda task: task["end_time"] or "")
        }

    def states(self, run: dict[str, Any], expected: dict[str, str]) -> dict[str, str]:
        """The names of the tasks' states, once they are as expected or the time is up.

        A task's state reaches the server as an event, a little after the flow run's state.
        """
        deadline = time.monotonic() + WAIT
        while True:
            states = {name: task["state"]["name"] for name, task in self.tasks(run).items()}
            if states == expected or time.monotonic() > deadline:
                return states
            time.sleep(0.2)

    def logs(self, run: dict[str, Any], containing: str) -> list[str]:
        """The lines of the run's log, once one of them contains the text."""

        def read() -> list[str]:
            found = self.post(
                "logs/filter",
                {"sort": "TIMESTAMP_ASC", "logs": {"flow_run_id": {"any_": [run["id"]]}}},
            )
            lines = [log["message"] for log in found]
            return lines if any(containing in line for line in lines) else []

        return self.wait_for(read)

    def events(self, run: dict[str, Any], name: str) -> list[dict[str, Any]]:
        about = {"id": [f"prefect.flow-run.{run['id']}"]}
        found = self.post(
            "events/filter", {"filter": {"event": {"name": [name]}, "any_resource": about}}
        )
        events: list[dict[str, Any]] = found["events"]
        return events

    def artifacts(self, run: dict[str, Any]) -> dict[str, Any]:
        found = self.post("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
        return {
            a["key"]: json.loads(a["data"]) if a["type"] == "table" else a["data"] for a in found
        }

    def wait_for(self, look: Callable[[], list[T]]) -> list[T]:
        deadline = time.monotonic() + WAIT
        while not (found := look()):
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.2)
        return found


def run(folder: Path, api: Api, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    """Run `python -m pipeline run` to its end; return exit code, output and the flow run."""
    before = {run["id"] for run in api.runs()}
    process = start_pipeline(folder, api.url, "run", *arguments)
    output, _ = process.communicate()
    return process.returncode, output, api.ended(api.last_run(before))


def start(
    folder: Path, api: Api, *arguments: str
) -> tuple["subprocess.Popen[str]", dict[str, Any]]:
    """Start `python -m pipeline run`; return the process and its flow run, once there is one."""
    before = {run["id"] for run in api.runs()}
    process = start_pipeline(folder, api.url, "run", *arguments)
    return process, api.last_run(before)


def finish(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate()
    return output


def message(thing: dict[str, Any]) -> str:
    """The message of the state of a flow run or of a task run."""
    return str(thing["state"]["message"])


def deploy_to_pool(folder: Path, api: Api, interval: int) -> tuple[Path, dict[str, str]]:
    """Deploy a workspace as prefect.yaml has it, with a faster schedule.

    Returns the workspace, and the variables for a worker of the pool.
    """
    make_model_workspace(folder)
    (folder / "pipeline").symlink_to(ROOT / "pipeline")
    changes = {'cron: "0 3 * * *"': f"interval: {interval}"}
    return folder, deploy(folder, api, "pool", ("mnist", "process"), changes)


def deploy(
    folder: Path,
    api: Api,
    name: str,
    pool: tuple[str, str],
    changes: dict[str, str],
    user: str = "",
) -> dict[str, str]:
    """Make a pool of that name and type, and deploy what prefect.yaml has under a name for it.

    With `changes` to its text. Returns the variables for a worker of the pool.
    """
    text = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "prefect.yaml").write_text(text, encoding="utf-8")
    variables = subprocess_environment() | {
        "PREFECT_API_URL": api.url,
        "MNIST_WORKSPACE": str(folder),
        "MNIST_USER": user,
    }
    for command in (
        ["work-pool", "create", pool[0], "--type", pool[1], "--overwrite"],
        ["--no-prompt", "deploy", "--name", name],
    ):
        result = subprocess.run(
            ["prefect", *command], cwd=folder, env=variables, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr
    return variables


def start_worker(
    folder: Path, variables: dict[str, str], pool: str = "mnist"
) -> "subprocess.Popen[str]":
    command = ["prefect", "worker", "start", "--pool", pool, "--limit", "1"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
