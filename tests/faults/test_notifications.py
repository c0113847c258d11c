"""A served deployment tells a real listener how its runs end, and retrains when data are added."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from helpers import edit_params
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_api import Api, finish, message
from toy import GIT, append, execute, make_model_workspace, processes_in, start_pipeline, wait_until

from pipeline.orchestration.events import announce_data

pytestmark = pytest.mark.slow


@contextmanager
def listening() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the address of a webhook and the list of what it was sent."""
    received: list[dict[str, Any]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/json"
            received.append(json.loads(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/secret", received
        server.shutdown()


def commit(folder: Path) -> None:
    execute(folder, *GIT, "commit", "--quiet", "--all", "-m", "next")


def test_each_end_is_told_and_data_start_a_run(tmp_path: Path, api: Api) -> None:
    """Published, Rejected, Failed, and Crashed of a run whose process was killed."""
    folder = make_model_workspace(tmp_path / "toy")
    with listening() as (url, received):
        serve = start_pipeline(
            folder, api.url, "serve", "--cron", "0 3 1 1 *", variables={"MNIST_NOTIFY_URL": url}
        )
        wait_until(lambda: api.post("automations/count", {}) == 2)

        def next_end(state: str) -> dict[str, Any]:
            """Add data; return what was told, once the run that they start has ended so."""
            told = len(received)
            with temporary_settings({PREFECT_API_URL: api.url}):
                assert announce_data(folder, "batch", 3)
            wait_until(lambda: len(received) > told)
            run = api.run_named(state)
            pages = api.url.removesuffix("/api")
            expected = {
                "flow_run": run["name"],
                "state": state,
                "message": message(run),
                "page": f"{pages}/runs/flow-run/{run['id']}",
            }
            content = received[told]
            assert content.pop("text") == " ".join(
                [f"{run['name']} {state}:", message(run), expected["page"]]
            )
            assert content == expected
            return run

        assert message(next_end("Published")).startswith("toy@v1.0.0: ")
        edit_params(folder, "train", "skill", 60)
        commit(folder)
        assert "is below the minimum" in message(next_end("Rejected"))
        (folder / "evaluate.py").write_text("raise SystemExit(3)")
        commit(folder)
        next_end("Failed")
        append(folder / "train.py", "import time; time.sleep(600)")
        commit(folder)
        killer = Thread(target=kill_run, args=(folder, api), daemon=True)
        killer.start()
        assert message(next_end("Crashed")) == "its process is gone"
        killer.join()
        serve.send_signal(signal.SIGINT)
        output = finish(serve)
    assert len(received) == 4
    assert "secret" not in output
    names = [automation["name"] for automation in api.post("automations/filter", {})]
    assert names == ["mnist-retrain: notify"], "what is not served is not started"


def kill_run(folder: Path, api: Api) -> None:
    """Kill the process of a served run once its stage is at work."""
    run = api.run_named("Running")
    api.logs(run, containing="> python train.py")
    [process] = [
        one for one in processes_in(folder) if one.cmdline()[1:] == ["-m", "prefect.engine"]
    ]
    process.kill()
