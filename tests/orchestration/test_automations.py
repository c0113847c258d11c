"""Who is told of a run's end, against a real server."""

import pytest
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect_api import Api, calling

from pipeline.errors import PipelineError
from pipeline.orchestration.automations import NOTIFY_URL, notify_of_states, read_notify_url
from pipeline.orchestration.flow import run_graph

SECRET = "https://hooks.invalid/secret"


def test_there_is_one_notification_and_none_once_its_address_is_unset(
    api: Api, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its address is kept in a block, as a secret."""
    with calling(api), get_client(sync_client=True) as client:
        flow_id = client.create_flow(run_graph)

        def notify() -> list[str]:
            notify_of_states(client, "mnist", flow_id, ["Published"], "http://127.0.0.1:4200")
            found = client.read_automations_by_name("mnist: notify")
            return [str(automation.model_dump(mode="json")) for automation in found]

        monkeypatch.setenv(NOTIFY_URL, SECRET)
        notify()
        [automation] = notify()
        assert "prefect.flow-run.Published" in automation
        assert "secret" not in automation
        webhook = Webhook.load("mnist-notify")
        assert isinstance(webhook, Webhook)
        assert webhook.url.get_secret_value() == SECRET
        monkeypatch.delenv(NOTIFY_URL)
        assert notify() == notify() == []
        with pytest.raises(ValueError, match="Unable to find block document"):
            Webhook.load("mnist-notify")
    assert "secret" not in "".join(capfd.readouterr())


def test_an_address_that_is_none_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(NOTIFY_URL, "hooks.invalid/secret")
    with pytest.raises(PipelineError) as refused:
        read_notify_url()
    assert (
        str(refused.value) == "MNIST_NOTIFY_URL is no address that starts with http:// or https://"
    )
