"""Workspaces of real digits that train in a second."""

import os
import shutil
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded: two test processes share the machine's cores

from helpers import STAGES, set_params


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which every stage has run; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    previous = Path.cwd()
    os.chdir(folder)
    try:
        set_params()
        for stage in STAGES.values():
            stage.main()
    finally:
        os.chdir(previous)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, holding nothing but params.yaml."""
    monkeypatch.chdir(tmp_path)
    set_params()
    return tmp_path


@pytest.fixture
def finished_workspace(workspace: Path, finished: Path) -> Path:
    """The current folder, a copy of `finished` to do with as the test likes."""
    shutil.copytree(finished, workspace, dirs_exist_ok=True)
    return workspace
