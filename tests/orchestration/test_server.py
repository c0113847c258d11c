"""The Prefect server that a command starts."""

import httpx
from prefect_api import Api
from toy import WAIT


def test_the_servers_pages_ask_the_server_itself(api: Api) -> None:
    settings = httpx.get(f"{api.url.removesuffix('/api')}/ui-settings", timeout=WAIT).json()
    assert settings["api_url"] == api.url
