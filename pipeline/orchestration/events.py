"""What this repository tells Prefect's server: that data were added. `serve` then runs at once."""

from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from pipeline.orchestration.server import DEFAULT_URL

DATA_ADDED = "mnist.data.added"
TIMEOUT = 5.0  # seconds for the server to answer


def data_resource(root: Path) -> str:
    """Return the id of a folder's data, for events and for automations that wait for them."""
    return f"mnist.data.{root.resolve()}"


def announce_data(root: Path, batch: str, images: int) -> bool:
    """Tell Prefect's server that data were added in `root`; return whether it has heard.

    Nothing is lost if it has not: the next scheduled run finds the data.
    """
    content = {
        "event": DATA_ADDED,
        "resource": {"prefect.resource.id": data_resource(root)},
        "payload": {"batch": batch, "images": images},
    }
    event = Event.model_validate(content).model_dump(mode="json")
    url = PREFECT_API_URL.value() or DEFAULT_URL
    options = {"timeout": TIMEOUT}
    try:
        with (
            temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings=options) as client,
        ):
            client.request("POST", "/events", json=[event])
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True
