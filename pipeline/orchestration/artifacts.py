"""What a flow run's page shows: the plan, the metrics, the parameters and the pages it made."""

import json
import re
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_table_artifact

from pipeline.errors import PipelineError
from pipeline.repository.dvc_worker import DvcWorker, run_consistently
from pipeline.repository.graph import Graph
from pipeline.repository.plan import PlannedStage


def publish_plan(planned: list[PlannedStage]) -> None:
    rows = [
        {"stage": stage.name, "plan": stage.action.value, "why": "; ".join(stage.reasons)}
        for stage in planned
    ]
    create_table_artifact(rows, key="plan", description="What had to be done, and why")


def publish_results(dvc: DvcWorker, graph: Graph) -> None:
    """Show metrics and parameters with their change since the last commit."""
    requests = (("metrics", "diff", "--all", "--json"), ("params", "diff", "--json"))
    locks = {stage.lock for stage in graph.values()}
    try:
        metrics, params = map(json.loads, run_consistently(dvc, *requests, locks=locks))
    except PipelineError as error:  # no reason to stop the stages that are at work
        get_run_logger().warning("no metrics on this page: %s", error)
        return
    changes = [(name, change) for values in metrics.values() for name, change in values.items()]
    changes.sort(key=lambda item: ("." in item[0], item[0]))  # nested metrics last
    create_table_artifact(
        [
            {
                "metric": name,
                "last commit": change.get("old"),
                "now": change.get("new"),
                "change": rounded_difference(change),
            }
            for name, change in changes
        ],
        key="metrics",
        description="Metrics, and their change since the last commit",
    )
    create_table_artifact(
        [
            {"parameter": name, "last commit": change.get("old"), "now": change.get("new")}
            for values in params.values()
            for name, change in values.items()
        ],
        key="params",
        description="Parameters changed since the last commit",
    )


def rounded_difference(change: dict[str, Any]) -> float | None:
    """Return the difference of two metrics without the noise of binary fractions."""
    return float(f"{change['diff']:.6g}") if "diff" in change else None


def publish_pages(root: Path, graph: Graph) -> None:
    """Show the address of every HTML page among the outputs; its key is the stage's name.

    The address is text, because no browser follows a link from a server's page to a file.
    """
    keys: set[str] = set()
    outs = [(stage.name, path) for stage in graph.values() for path in stage.outs]
    for stage, path in outs:
        if path.endswith(".html") and (root / path).is_file():
            name = stage if stage not in keys else f"{stage}-{Path(path).stem}"
            keys.add(name)
            address = (root / path).as_uri()
            key = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
            create_link_artifact(address, link_text=address, key=key, description=path)
