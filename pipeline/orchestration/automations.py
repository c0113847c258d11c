"""What Prefect's server does for a served flow: it starts runs, and tells people how they end.

Each automation is named after its flow. Every `serve` makes it anew, so that there is one of each.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.events import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.types import SecretDict
from pydantic import SecretStr

from pipeline.errors import PipelineError
from pipeline.orchestration.events import DATA_ADDED, data_resource

NOTIFY_URL = "MNIST_NOTIFY_URL"  # the variable with the webhook's address, which may hold a secret
TROUBLE = ("Failed", "Crashed")  # the states of which people are always told
# What the webhook is sent. Chat programs show `text`. PAGES stands for the pages' address.
NOTIFICATION = """\
{%- set run = event.resource['prefect.resource.name'] -%}
{%- set state = event.resource['prefect.state-name'] -%}
{%- set message = event.resource['prefect.state-message'] or '' -%}
{%- set page = 'PAGES/runs/flow-run/' ~ event.resource.id.replace('prefect.flow-run.', '') -%}
{"flow_run": {{ run | tojson }},
 "state": {{ state | tojson }},
 "message": {{ message | tojson }},
 "page": {{ page | tojson }},
 "text": {{ (run ~ ' ' ~ state ~ ': ' ~ message ~ ' ' ~ page) | tojson }}}
"""


def read_notify_url() -> str | None:
    """Return the webhook's address, if one is set; raise PipelineError if it is none."""
    url = os.environ.get(NOTIFY_URL) or None
    if url and not (urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname):
        raise PipelineError(f"{NOTIFY_URL} is no address that starts with http:// or https://")
    return url


def run_when_data_are_added(
    client: SyncPrefectClient,
    root: Path,
    flow: str,
    deployment_id: UUID,
) -> UUID:
    """Let data that are added in `root` start a run of the deployment; return the automation."""
    trigger = {"expect": [DATA_ADDED], "match": {"prefect.resource.id": data_resource(root)}}
    action = {
        "type": "run-deployment",
        "source": "selected",
        "deployment_id": deployment_id,
    }
    return set_automation(client, f"{flow}: run when data are added", trigger, action)


def notify_of_states(
    client: SyncPrefectClient,
    flow: str,
    flow_id: UUID,
    states: Iterable[str],
    pages: str,
) -> None:
    """Let the flow's runs that enter one of these states, Failed or Crashed call the webhook.

    If its address is not set, what an earlier `serve` has set up is removed.
    """
    name, block_name = f"{flow}: notify", f"{flow}-notify"
    if not (url := read_notify_url()):
        remove_automation(client, name)
        with suppress(ObjectNotFound):
            block = client.read_block_document_by_name(block_name, "webhook")
            client.delete_block_document(block.id)
        return
    headers = SecretDict({"Content-Type": "application/json"})
    webhook = Webhook(url=SecretStr(url), headers=headers, allow_private_urls=True)
    of_flow = {
        "prefect.resource.id": f"prefect.flow.{flow_id}",
        "prefect.resource.role": "flow",
    }
    trigger = {
        "expect": [f"prefect.flow-run.{state}" for state in (*TROUBLE, *states)],
        "match_related": of_flow,
    }
    action = {
        "type": "call-webhook",
        "block_document_id": webhook.save(block_name, overwrite=True),
        "payload": NOTIFICATION.replace("PAGES", pages),
    }
    set_automation(client, name, trigger, action)


def set_automation(
    client: SyncPrefectClient,
    name: str,
    trigger: Mapping[str, Any],
    action: Mapping[str, Any],
) -> UUID:
    """Make an automation that reacts to each event by itself, in place of one of that name."""
    remove_automation(client, name)
    reactive = {"type": "event", "posture": "Reactive", "threshold": 1}
    content = {"name": name, "trigger": {**reactive, **trigger}, "actions": [action]}
    return client.create_automation(AutomationCore.model_validate(content))


def remove_automation(client: SyncPrefectClient, name: str) -> None:
    for automation in client.read_automations_by_name(name):
        client.delete_automation(automation.id)
