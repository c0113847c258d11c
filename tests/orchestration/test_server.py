"""The flow against a real server, on small graphs of real processes: states, order, retries,
refusals.
"""

import httpx
from prefect_api import Api


def test_the_servers_pages_ask_the_server_itself(api: Api) -> None:
    assert httpx.get(f"{api.url.removesuffix('/api')}/ui-settings").json()["api_url"] == api.url
