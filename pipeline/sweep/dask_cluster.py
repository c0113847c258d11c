"""Dask workers, on this machine or on others.

Each worker clones the repository from its Git remote. Data and runs go through the DVC remote.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from filelock import FileLock
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed
from prefect.task_runners import TaskRunner

from pipeline.errors import PipelineError
from pipeline.repository.dvc_files import has_remote
from pipeline.repository.git import GitError, git, read_file

REMOTE = "origin"
LOCAL = "local"  # in place of an address: a cluster that lasts as long as the run


@dataclass(frozen=True)
class CloneSource:
    """What a worker clones, and where in it the pipeline is."""

    url: str
    prefix: str


def find_clone_source(root: Path, commit: str) -> CloneSource:
    """Return what workers clone; raise PipelineError if a remote for commit or data is missing."""
    try:
        url = git(root, "remote", "get-url", REMOTE)
    except GitError as error:
        raise PipelineError(
            f"workers clone from the Git remote {REMOTE}, which is not set; git remote add it"
        ) from error
    if not git(root, "branch", "--remotes", "--contains", commit):
        raise PipelineError(
            f"the commit {commit[:7]} is not on {REMOTE}, from which workers clone; git push it"
        )
    if not has_remote_in_clone(root, commit):
        raise PipelineError(
            f"workers get data from the DVC remote, and the commit {commit[:7]} has no default one"
            " in .dvc/config; dvc remote add -d, commit, git push and dvc push"
        )
    address = str(root / url) if (root / url).is_dir() else url
    return CloneSource(address, git(root, "rev-parse", "--show-prefix"))


def has_remote_in_clone(root: Path, commit: str) -> bool:
    """Whether DVC has a default remote in a clone of the commit.

    That has no .dvc/config.local, and no change that is not committed.
    """
    with TemporaryDirectory() as clone:
        config = Path(clone) / ".dvc" / "config"
        config.parent.mkdir()
        config.write_text(read_file(root, commit, ".dvc/config"), encoding="utf-8")
        return has_remote(Path(clone))


def dask_runner(address: str, workers: int) -> TaskRunner[Any]:
    """Return a runner on the cluster at `address`, or for LOCAL on one of `workers` processes."""
    if address != LOCAL and not PREFECT_API_URL.value():
        raise PipelineError(
            f"the workers of {address} need a Prefect server that they reach; set PREFECT_API_URL"
        )
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise PipelineError(
            "--dask needs the extra dask: pip install -c constraints.txt -e '.[dask]'"
        ) from error
    logging.getLogger("distributed").setLevel(logging.ERROR)  # it tells of every worker
    if address != LOCAL:
        return DaskTaskRunner(address=address)
    return DaskTaskRunner(
        cluster_kwargs={"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    )


@contextmanager
def worker_clone(source: CloneSource, commit: str) -> Iterator[Path]:
    """Yield the pipeline's folder in this worker's clone of the commit."""
    from distributed import get_worker

    # Dask removes this folder, also that of a dead worker.
    clone = Path(get_worker().local_directory) / f"clone-{commit}"
    with FileLock(f"{clone}.lock"):
        if not clone.exists():
            partial = clone.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            git(clone.parent, "clone", "--quiet", "--no-checkout", "--", source.url, str(partial))
            git(partial, "checkout", "--quiet", "--detach", commit)
            partial.rename(clone)
    yield clone / source.prefix


def mark_orphans_crashed(parent: UUID | str, name: str) -> None:
    """Mark as Crashed the child runs of that name that are unfinished: their worker has died.

    Dask has given their combination to another worker, which calls this.
    """
    orphans = FlowRunFilter.model_validate(
        {
            "parent_flow_run_id": {"any_": [str(parent)]},
            "name": {"any_": [name]},
            "state": {"type": {"any_": ["PENDING", "RUNNING"]}},
        }
    )
    crashed: State[Any] = Crashed(message="its worker died; another one tries again")
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=orphans):
            client.set_flow_run_state(run.id, crashed, force=True)
