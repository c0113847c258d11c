"""The Prefect server that a command starts."""

from pathlib import Path

import httpx
import pytest
from prefect.settings import PREFECT_API_SSL_CERT_FILE, temporary_settings
from prefect_api import Api
from toy import WAIT

from pipeline.errors import PipelineError
from pipeline.orchestration.server import is_healthy


def test_the_servers_pages_ask_the_server_itself(api: Api) -> None:
    settings = httpx.get(f"{api.url.removesuffix('/api')}/ui-settings", timeout=WAIT).json()
    assert settings["api_url"] == api.url


def test_a_file_of_certificates_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prefect.crt"
    with temporary_settings({PREFECT_API_SSL_CERT_FILE: str(path)}):
        for problem in ("No such file or directory", "NO_CERTIFICATE"):
            with pytest.raises(PipelineError, match=f"^PREFECT_API_SSL_CERT_FILE is .*{problem}"):
                is_healthy("https://127.0.0.1:1/api")
            path.write_text("no certificate")
