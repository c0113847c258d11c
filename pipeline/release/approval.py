"""A person's approval of a candidate that the gate passes, on Prefect's page of its run.

The run is Paused meanwhile. It holds no lock, so that others run and publish.
"""

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import get_run_logger, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort, Pause
from prefect.input.run_input import Keyset, RunInput, keyset_from_paused_state
from prefect.states import Paused
from prefect.utilities.engine import propose_state_sync
from prefect.utilities.urls import url_for
from pydantic import Field, ValidationError

from pipeline.orchestration.lifecycle import hold_or_skip, release_deployment
from pipeline.release.verdict import Verdict
from pipeline.repository.processes import RunCancelledError, current_scope

POLL = 5.0  # seconds between looks for an answer


class ApprovalNeededError(Exception):
    """The gate has passed the candidate, and a person is to decide."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


class Answer(RunInput):
    """What a person fills in on the run's page."""

    approve: bool = Field(description="Publish this model?")
    name: str = Field(default="", description="Who decides?")
    reason: str = Field(default="", description="Why?")

    def __str__(self) -> str:
        """Return it in one line, for a commit's trailer."""
        done = "approved" if self.approve else "refused"
        by = f" by {self.name}" if self.name else ""
        why = f": {self.reason}" if self.reason else ""
        return " ".join(f"{done}{by}{why}".split())


@dataclass
class Approval:
    """Whether a person has approved the candidate; asked once a run."""

    timeout: float  # seconds
    answer: Answer | None = None

    def require(self, verdict: Verdict) -> None:
        """Raise ApprovalNeededError unless a person has approved the candidate."""
        if not self.answer:
            raise ApprovalNeededError(verdict)

    def ask(self, root: Path, model: str, verdict: Verdict, page: str) -> Verdict | None:
        """Wait for a person; return None if approved, or else the verdict that this makes.

        Args:
            root: the folder of the run
            model: what is to be published, and where; no two runs wait for the same
            verdict: the gate's, which passes the candidate
            page: the verdict in Markdown

        Raises SkippedRunError, RunCancelledError.
        """
        name = hashlib.sha256(model.encode()).hexdigest()[:16]
        lock = root / ".dvc" / "tmp" / f"approval-{name}.lock"
        with hold_or_skip(lock, "waits for a person to approve this very model"):
            release_deployment()
            self.answer = wait_for_answer(page, self.timeout)
        if self.answer and self.answer.approve:
            get_run_logger().info("%s", self.answer)
            return None
        within = f"not approved within {spell_out(self.timeout)}"
        return replace(verdict, refusal=str(self.answer or within))


def wait_for_answer(page: str, timeout: float) -> Answer | None:
    """Pause the run and return what a person answers, None if nobody has in that many seconds.

    Prefect's own pause_flow_run would not end when the run is cancelled, and would end when the
    server is away. The pause has no time limit for the server, which would make the run Failed.
    The server refuses it unless the run is Running; then the state says how to go on.

    Raises RunCancelledError.
    """
    client, run_id = get_client(sync_client=True), runtime.flow_run.id
    key = f"approval-{runtime.flow_run.run_count}"  # the server takes each once, also of one rerun
    state: State[Any] = Paused(pause_key=key, message="waits for a person's approval")
    keyset = keyset_from_paused_state(state)
    state.state_details.run_input_keyset = {str(kind): key for kind, key in keyset.items()}
    with suppress(Abort, Pause):  # it was cancelled just before, or the request was repeated
        propose_state_sync(client, state, flow_run_id=run_id)
    # after the state, with which the server forgets a form of that key; it takes no answer before
    Answer.with_initial_data(description=page).save(keyset)
    address = url_for("flow-run", obj_id=run_id)
    get_run_logger().info("waits up to %s for approval: %s", spell_out(timeout), address)
    deadline = time.monotonic() + timeout
    while True:
        current_scope().raise_if_cancelled()
        is_over = time.monotonic() > deadline
        now = client.read_flow_run(run_id).state
        if now and now.is_running():
            return read_answer(keyset)
        if now and (now.is_final() or now.is_cancelling()):
            raise RunCancelledError(f"{now.name} while it waited for approval")
        if is_over:
            return None
        time.sleep(POLL)


def read_answer(keyset: Keyset) -> Answer:
    try:
        answer = Answer.load(keyset)
    except ValidationError:  # somebody has set the state and answered nothing
        return Answer(approve=False, reason="resumed without an answer")
    assert isinstance(answer, Answer)
    return answer


def spell_out(seconds: float) -> str:
    """100000 → '1 day 3 hours 46 minutes 40 seconds'."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    days, hours = divmod(hours, 24)
    units = {"day": days, "hour": hours, "minute": minutes, "second": rest}
    parts = [f"{n:g} {unit}{'s' * (n != 1)}" for unit, n in units.items() if n]
    return " ".join(parts) or "0 seconds"
