"""Nights of new images: a scheduled deployment retrains, publishes, rejects and fails.

Run: python -m benchmarks.nights (a quarter of an hour on two cores). It works on a clone of this
repository, with a Prefect server of its own. The new images are digits of other writers. Each night
some are added as a commit; the table says what the scheduled run made of it.
"""

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from ruamel.yaml import YAML

from benchmarks.other_writers import DIGITS, mislabel, write_pictures
from pipeline.paths import METRICS, MODEL, OWN
from pipeline.repository.processes import subprocess_environment

MODEL_NAME = "mnist-cnn"
TIMEOUT = 1800.0  # seconds for a night's run
FINAL = ("COMPLETED", "FAILED", "CRASHED")
COLUMNS = ("night", "images", "champion on them", "own accuracy", "accuracy", "state", "version")


class Night(NamedTuple):
    """What is added before a night's run."""

    images: int = 0
    fault: str = ""  # mislabelled, or unreadable


class Row(NamedTuple):
    """What a night's run made of it."""

    night: int
    what: str
    champion_on_new: float | None  # accuracy of the model before, on the images that were added
    own: float | None  # accuracy of the champion after, on the held-out own images
    accuracy: float  # of the champion after, on the data set's test images
    state: str
    version: str  # of the champion after
    message: str


STORY = (*[Night(280)] * 5, Night(280, "mislabelled"), Night(60, "unreadable"), Night())


class Repository:
    """A clone that is served on a schedule, by a Prefect server of its own."""

    def __init__(self, folder: Path, source: Path, changes: Mapping[str, Any]) -> None:
        self.folder, self.scratch, self.pictures = folder / "clone", folder, folder / "pictures"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}/api"
        self.environment = subprocess_environment() | {
            "PREFECT_API_URL": self.url,
            "PREFECT_HOME": str(folder / "prefect"),
        }
        self.execute(folder, "git", "clone", "--quiet", str(source), str(self.folder))
        # a link, because DVC writes its configuration in ASCII
        cache = Path(self.execute(source, sys.executable, "-m", "dvc", "cache", "dir"))
        cache.mkdir(exist_ok=True)
        (self.folder / ".dvc" / "cache").symlink_to(cache)
        self.git("config", "user.name", "benchmark")
        self.git("config", "user.email", "benchmark@localhost")
        if changes:
            change_params(self.folder / "params.yaml", changes)
            self.git("commit", "--quiet", "--message", "Change parameters", "params.yaml")
        self.dvc("repro", "--quiet", "fetch")

    def git(self, *arguments: str) -> str:
        return self.execute(self.folder, "git", *arguments)

    def dvc(self, *arguments: str) -> str:
        return self.execute(self.folder, sys.executable, "-m", "dvc", *arguments)

    def mnist(self, *arguments: str, folder: Path | None = None) -> str:
        command = (sys.executable, "-m", "pipeline", *arguments)
        return self.execute(folder or self.folder, *command)

    def execute(self, folder: Path, *command: str) -> str:
        result = subprocess.run(
            command, cwd=folder, env=self.environment, capture_output=True, text=True
        )
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)}: {result.stdout}{result.stderr}")
        return result.stdout.strip()

    def draw(self, night: Night, indices: list[int]) -> None:
        """Write a night's images outside of the clone."""
        shutil.rmtree(self.pictures, ignore_errors=True)
        if night.fault == "mislabelled":
            write_pictures(self.pictures, indices, mislabel)
        else:
            write_pictures(self.pictures, indices)

    def add(self, night: Night) -> None:
        """Add the images as a commit."""
        if night.fault != "unreadable":
            self.mnist("add", str(self.pictures), "--commit")
            return
        # `mnist add` would refuse it, so somebody goes around it.
        batch = OWN / "unreadable"
        shutil.copytree(self.pictures, self.folder / batch)
        (self.folder / batch / "0" / "broken.png").write_bytes(b"\x89PNG, but no more")
        self.dvc("add", "--quiet", str(batch))
        self.git("add", f"{batch}.dvc")
        self.git("commit", "--quiet", "--message", "Add an unreadable file")

    def take_back(self) -> None:
        """Undo the last commit, which added a batch."""
        self.git("revert", "--no-edit", "HEAD")
        self.dvc("checkout", "--quiet", "--allow-missing")  # of stages that have run elsewhere

    def champion_accuracy(self) -> float:
        """Return the champion's accuracy on the night's images."""
        folder = self.scratch / "champion"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / MODEL.parent).mkdir(parents=True)
        self.dvc("get", ".", str(MODEL), "--rev", "champion", "--out", str(folder / MODEL))
        files = sorted(map(str, self.pictures.rglob("*.png")))
        (folder / "pipeline").symlink_to(self.folder / "pipeline")
        predictions = json.loads(self.mnist("predict", "--json", *files, folder=folder))
        right = [Path(row["file"]).parent.name == row["prediction"] for row in predictions]
        return float(np.mean(right))

    def champion(self) -> tuple[str, dict[str, Any]]:
        """Return the champion's version and metrics."""
        models = json.loads(self.mnist("models", "--json"))
        version = next(model["name"] for model in models if "prod" in model["stages"])
        return version, json.loads(self.git("show", f"champion:{METRICS}"))


def change_params(path: Path, changes: Mapping[str, Any]) -> None:
    yaml = YAML()
    content = yaml.load(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        section, _, key = name.partition(".")
        content[section][key] = value
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)


@contextmanager
def served(repository: Repository, interval: float) -> Iterator[None]:
    """Serve the retraining on a schedule."""
    command = [sys.executable, "-m", "pipeline", "serve", "--interval", f"{interval:g}"]
    with (repository.scratch / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=repository.folder,
            env=repository.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def wait_for_run(url: str, commit: str, began_after: datetime) -> dict[str, Any]:
    """Return the first run of the commit that began after that moment, once it has ended."""
    query = {"sort": "START_TIME_ASC", "flow_runs": {"state": {"type": {"any_": FINAL}}}}
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        for run in ask(url, "flow_runs", query):
            start = run["start_time"]
            if start and datetime.fromisoformat(start) > began_after:
                logs = ask(url, "logs", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
                if any(log["message"] == f"retraining commit {commit}" for log in logs):
                    return run
        time.sleep(1)
    raise RuntimeError(f"no run ended in {TIMEOUT:g} seconds")


def ask(url: str, things: str, query: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what Prefect's server finds; nothing while it is starting, or busy."""
    try:
        found = httpx.post(f"{url}/{things}/filter", json=query, timeout=30).json()
    except (httpx.HTTPError, ValueError):
        return []
    return found if isinstance(found, list) else []


def run(
    source: Path,
    story: tuple[Night, ...],
    *,
    interval: float,
    changes: Mapping[str, Any] | None = None,
    show: Callable[[str], object] = print,
    check: Callable[[Repository, list[Row]], object] | None = None,
) -> list[Row]:
    """Live through the nights of a story; return a row for each, the first without new images.

    Args:
        source: the repository that is cloned
        story: what is added before each night
        interval: of the schedule, in seconds
        changes: parameters of the clone, by names such as train.epochs
        show: gets each row of the table
        check: is called with the clone at the end
    """
    digits = iter(np.random.default_rng(1).permutation(DIGITS).tolist())
    rows = []
    with tempfile.TemporaryDirectory() as name:
        repository = Repository(Path(name), source, changes or {})
        show(to_line(COLUMNS))
        show("|---" * len(COLUMNS) + "|")
        with served(repository, interval):
            for number, night in enumerate((Night(), *story)):
                row = live_through(
                    repository, number, night, [next(digits) for _ in range(night.images)]
                )
                rows.append(row)
                show(to_line(cells(row)))
        if check:
            check(repository, rows)
    return rows


def live_through(repository: Repository, number: int, night: Night, indices: list[int]) -> Row:
    """Add a night's images, and wait for the run that finds them."""
    champion_on_new, began_after = None, datetime.now(UTC)
    if indices:
        repository.draw(night, indices)
        if night.fault != "unreadable":
            champion_on_new = repository.champion_accuracy()
        repository.add(night)
    run = wait_for_run(repository.url, repository.git("rev-parse", "HEAD"), began_after)
    if night.fault:
        repository.take_back()
    version, metrics = repository.champion()
    what = f"{night.images} {night.fault}".strip() if indices else "none"
    own = metrics.get("own", {}).get("accuracy")
    state = run["state"]
    return Row(
        number,
        what,
        champion_on_new,
        own,
        metrics["accuracy"],
        state["name"],
        version,
        state["message"] or "",
    )


def cells(row: Row) -> tuple[str, ...]:
    shares = (row.champion_on_new, row.own, row.accuracy)
    percents = ["–" if share is None else f"{share:.2%}" for share in shares]
    return (str(row.night), row.what, *percents, row.state, row.version)


def to_line(values: tuple[str, ...]) -> str:
    return f"| {' | '.join(values)} |"


def show_history(repository: Repository, rows: list[Row]) -> None:
    """Show what the runs, Git, DVC and `models` say of the nights, and go back to the third."""
    for row in rows:
        print(f"\nnight {row.night}, {row.state}: {row.message}")
    print("\n$ git log --format=%s champion")
    print(repository.git("log", "--format=%s", "--max-count=6", "champion"))
    first, last = (f"{MODEL_NAME}@{rows[night].version}" for night in (1, 5))
    print(f"\n$ dvc metrics diff {first} {last} --targets {METRICS}")
    changes = repository.dvc("metrics", "diff", first, last, "--targets", str(METRICS))
    print("\n".join(line for line in changes.splitlines() if "per_class" not in line))
    print("\n$ mnist models")
    print(repository.mnist("models"))
    third = f"{MODEL_NAME}@{rows[3].version}"
    repository.git("checkout", "--quiet", third)
    repository.dvc("checkout", "--quiet")
    images = len(list((repository.folder / OWN).rglob("*.png")))
    own = json.loads((repository.folder / METRICS).read_text(encoding="utf-8"))["own"]
    print(f"\n{third} checked out: {images} own images, {own['accuracy']:.2%} on those held out")


def main() -> None:
    run(Path.cwd(), STORY, interval=30, check=show_history)


if __name__ == "__main__":
    main()
