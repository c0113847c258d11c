"""The graph and what is stale, as a real DVC tells them."""

import re
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.graph import parse_dot, read_status, upstream


def test_the_graph_is_that_of_dvc_yaml(fresh: Path) -> None:
    with DvcWorker(fresh) as dvc:
        view = read_status(dvc)
    assert list(view.graph.items()) == [
        ("first", set()),
        ("second", {"first"}),
        ("third", {"second"}),
    ]
    assert view.stale == {}


def test_parts_of_a_graph() -> None:
    graph = parse_dot('strict digraph {\n"a";\n"b@x";\n"c";\n"a" -> "b@x";\n"a" -> "c";\n}\n')
    assert graph == {"a": set(), "b@x": {"a"}, "c": {"a"}}
    assert list(upstream(graph, ["c"])) == ["a", "c"]
    with pytest.raises(PipelineError, match="has no stage d, e; it has a, b@x, c"):
        upstream(graph, ["d", "a", "e"])


def test_no_graph_here_is_one_line(tmp_path: Path) -> None:
    refusal = re.escape(f"{tmp_path} holds no dvc.yaml; run from the folder that does")
    with DvcWorker(tmp_path) as dvc, pytest.raises(PipelineError, match=refusal):
        read_status(dvc)


def test_what_dvc_cannot_read_is_one_line(fresh: Path) -> None:
    (fresh / "dvc.yaml").write_text("stages: [")
    with (
        DvcWorker(fresh) as dvc,
        pytest.raises(PipelineError, match=r"^dvc dag --dot failed: .*dvc.yaml.*$") as failure,
    ):
        read_status(dvc)
    assert "\n" not in str(failure.value)
