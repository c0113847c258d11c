"""The graph and what is stale, as a real DVC tells them."""

import re
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.graph import Graph, Targets, is_stale, read_graph


def read(folder: Path, *stages: str, all_pipelines: bool = False) -> Graph:
    with DvcWorker(folder) as dvc:
        return read_graph(dvc, Targets(stages, all_pipelines))


def test_the_graph_is_that_of_dvc_yaml(fresh: Path) -> None:
    graph = read(fresh)
    assert {name: stage.needs for name, stage in graph.items()} == {
        "first": (),
        "second": ("first",),
        "third": ("second",),
    }
    assert not is_stale(graph)


def test_parts_of_a_graph(fresh: Path) -> None:
    assert list(read(fresh, "second")) == ["first", "second"]
    refusal = "Stage 'nosuch' not found inside 'dvc.yaml' file; there are: first, second, third"
    with pytest.raises(PipelineError, match=refusal):
        read(fresh, "first", "nosuch")


def test_no_graph_here_is_one_line(tmp_path: Path) -> None:
    refusal = re.escape(f"{tmp_path} holds no dvc.yaml; run from the folder that does")
    with pytest.raises(PipelineError, match=refusal):
        read(tmp_path)


def test_what_dvc_cannot_read_is_one_line(fresh: Path) -> None:
    (fresh / "dvc.yaml").write_text("stages: [")
    with pytest.raises(PipelineError, match=r"^dvc describe failed: .*dvc.yaml.*$") as failure:
        read(fresh)
    assert "\n" not in str(failure.value)
