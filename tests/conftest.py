"""Workspaces of real digits that train in a second."""

import gc
import gzip
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

# before torch is loaded: two test processes share the machine's cores
os.environ["OMP_NUM_THREADS"] = "1"
# no test depends on the name, signing or hooks of whoever runs it
os.environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

from helpers import CLOTHES, STAGES, repro, set_params
from own_images import make_batch
from sample import make_repository
from toy import CHAIN, ORDER, commit_all, execute, make_model_workspace, make_workspace

from pipeline.mnist.idx import UInt8Array, write_dataset_info
from pipeline.mnist.sources import DATASETS
from pipeline.mnist.tensors import load_digits
from pipeline.paths import RAW, REPORT, TEST

gc.set_threshold(10_000)  # as the command line does: what is imported lasts
# A shell's background processes ignore Ctrl-C, and so do their children. The tests send Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from browser import Visit
    from playwright.sync_api import Browser
    from prefect_api import Api


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests, so that the others are not done long before them."""
    longest = ("test_same_as_repro.py", "test_repro.py")
    items.sort(key=lambda item: item.path.name not in longest)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Api]":
    from prefect_api import running_server  # only now: most tests do without Prefect

    with running_server(tmp_path_factory.mktemp("prefect")) as api:
        yield api


@pytest.fixture
def api(prefect_server: "Api") -> "Api":
    """The session's Prefect server, without the deployments and runs of earlier tests."""
    prefect_server.clear()
    return prefect_server


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A browser; the test is skipped if there is none.

    It lasts no longer than a module, because Playwright's event loop would disturb Prefect.
    """
    from browser import running_browser

    with running_browser() as browser:
        yield browser


@pytest.fixture
def visit(browser: "Browser", folder: Path) -> "Iterator[Visit]":
    """The report of the module's fixture `folder`. It must load nothing else, and say nothing."""
    from browser import DESKTOP, Visit

    visit = Visit(browser, folder / REPORT, DESKTOP)
    yield visit
    assert visit.loaded() == [(folder / REPORT).as_uri()]
    assert visit.said == []
    visit.context.close()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which every stage has run. Tests must not change it."""
    folder = tmp_path_factory.mktemp("finished")
    with chdir(folder):
        set_params()
        for stage in STAGES.values():
            stage.main()
    return folder


@pytest.fixture(scope="session")
def finished_with_own(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `finished`, with 200 own images, which differ a little from the sample's."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    with chdir(folder):
        make_batch("first", range(200))
        for stage in list(STAGES.values())[1:]:
            stage.main()
    return folder


@pytest.fixture
def own_workspace(workspace: Path, finished_with_own: Path) -> Path:
    """The current folder, a copy of `finished_with_own` that the test may change."""
    shutil.copytree(finished_with_own, workspace, dirs_exist_ok=True)
    return workspace


@pytest.fixture(scope="session")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `finished`, on images of clothes. Fetch takes whole data sets only, so it has not run."""
    folder = tmp_path_factory.mktemp("clothes")
    with chdir(folder):
        RAW.mkdir(parents=True)
        for path in CLOTHES.glob("*.gz"):
            (RAW / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        write_dataset_info(RAW, DATASETS["FashionMNIST"].info)
        set_params(report={"mistakes": 100}, train={"epochs": 5})
        for stage in list(STAGES.values())[1:]:
            stage.main()
    return folder


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which holds params.yaml only."""
    monkeypatch.chdir(tmp_path)
    set_params()
    return tmp_path


@pytest.fixture
def finished_workspace(workspace: Path, finished: Path) -> Path:
    """The current folder, a copy of `finished` that the test may change."""
    shutil.copytree(finished, workspace, dirs_exist_ok=True)
    return workspace


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of this code on the sample, everything run and committed; not to be changed.

    The processes of one test run share it: the first that needs it makes it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "reproduced"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            make_reproduced(shared / "reproduced.partial").rename(folder)
    return folder


def make_reproduced(folder: Path) -> Path:
    make_repository(folder)
    assert repro(folder) == (list(STAGES), [])
    commit_all(folder)
    return folder


@pytest.fixture
def repository(reproduced: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    shutil.copytree(reproduced, folder, symlinks=True)
    return folder


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of three stages in a row, the second with parameters; everything has run.

    `fresh` undoes what tests change.
    """
    folder = make_workspace(tmp_path_factory.mktemp("chain"), CHAIN, ORDER)
    text = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(
        text.replace(
            "    deps:\n    - second.py", "    params: [scale]\n    deps:\n    - second.py"
        )
    )
    (folder / "params.yaml").write_text("scale: {width: 3, deep: {height: 4}}\n")
    execute(folder, "dvc", "repro")
    commit_all(folder)
    return folder


@pytest.fixture
def fresh(chain: Path) -> Path:
    execute(chain, "git", "checkout", "--quiet", ".")
    execute(chain, "dvc", "checkout", "--quiet")
    return chain


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model_workspace(tmp_path_factory.mktemp("trained") / "toy")
    execute(folder, "dvc", "repro")
    commit_all(folder)
    return folder


@pytest.fixture
def digits(finished_workspace: Path) -> UInt8Array:
    return load_digits(TEST)[0].images[:, 0]
