"""What a flow run's page shows: the plan, the metrics and the parameters."""

import json
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact

from pipeline.errors import PipelineError
from pipeline.repository.dvc_worker import run_consistently
from pipeline.repository.plan import PlannedStage


def publish_plan(steps: list[PlannedStage]) -> None:
    rows = [
        {"stage": step.stage, "plan": step.action.value, "why": "; ".join(step.reasons)}
        for step in steps
    ]
    create_table_artifact(rows, key="plan", description="What had to be done, and why")


def publish_results(root: Path) -> None:
    """Put metrics and parameters, with their change since the last commit, on the run's page."""
    try:
        answers = run_consistently(
            root, ("metrics", "diff", "--all", "--json"), ("params", "diff", "--json")
        )
    except PipelineError as error:  # no reason to stop the stages that are at work
        get_run_logger().warning("no metrics on this page: %s", error)
        return
    metrics, params = map(json.loads, answers)
    changes = [(name, change) for values in metrics.values() for name, change in values.items()]
    create_table_artifact(
        [
            {
                "metric": name,
                "last commit": change.get("old"),
                "now": change.get("new"),
                "change": rounded(change),
            }
            for name, change in sorted(
                changes, key=lambda item: ("." in item[0], item[0])
            )  # what is nested last
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


def rounded(change: dict[str, Any]) -> float | None:
    """The difference of two metrics without its binary dust."""
    return float(f"{change['diff']:.6g}") if "diff" in change else None
