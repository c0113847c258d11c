"""A flow on a schedule: deployment, schedule and automations."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import prefect
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events.schemas.automations import AutomationCore
from prefect.flows import Flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import ValidationError

from pipeline.errors import PipelineError
from pipeline.orchestration.server import DEFAULT_URL, server_at

AUTOMATIONS = Path("automations.json")


def parse_schedule(
    cron: str,
    interval: float | None,
    timezone: str,
) -> CronSchedule | IntervalSchedule:
    """Return the schedule; raise PipelineError if Prefect would refuse it."""
    try:
        if interval is not None:
            return IntervalSchedule(interval=timedelta(seconds=interval), timezone=timezone)
        return CronSchedule(cron=cron, timezone=timezone)
    except (ValueError, OverflowError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        asked = f"--cron '{cron}'" if interval is None else f"--interval {interval:g}"
        raise PipelineError(
            f"{asked} --timezone {timezone} is no schedule: {reason};"
            " for example --cron '0 3 * * *', --interval 3600 and --timezone Europe/Berlin"
        ) from error


def serve(
    flow: Flow[..., Any],
    parameters: dict[str, Any],
    schedule: CronSchedule | IntervalSchedule,
) -> None:
    """Run the flow on `schedule`, and whenever asked on Prefect's pages, until interrupted."""
    url = PREFECT_API_URL.value() or DEFAULT_URL
    with server_at(url), temporary_settings({PREFECT_API_URL: url}):
        register_automations()
        deployment = RunnerDeployment.from_flow(
            flow,
            "scheduled",
            parameters=parameters,
            schedules=[schedule],
            # a run that comes while another is at work has nothing to add
            concurrency_limit=ConcurrencyLimitConfig(
                limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
            ),
        )
        print(f"Prefect's pages: {url.removesuffix('/api')}\nCtrl-C ends everything.", flush=True)
        prefect.serve(deployment, print_starting_message=False)


def register_automations() -> None:
    """Put the automations of automations.json on the server, in place of those of the same name."""
    for content in json.loads(AUTOMATIONS.read_text(encoding="utf-8")):
        automation = AutomationCore.model_validate(content)
        with get_client(sync_client=True) as client:
            for old in client.read_automations_by_name(automation.name):
                client.delete_automation(old.id)
            client.create_automation(automation)
