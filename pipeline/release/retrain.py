"""Retraining as a transaction: a model that passes the gate is published, or no branch moves.

A commit's graph is brought up to date in a worktree. What it gives is judged against the champion
and replaces it, or not. The run ends Published, Unchanged or Rejected. All three are of Prefect's
type COMPLETED: a gate that rejects has done its work. Failed is for what somebody must look into.
"""

from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from pipeline.errors import PipelineError
from pipeline.files import atomic_write
from pipeline.options import MAX_APPROVAL
from pipeline.orchestration.lifecycle import run_as_flow
from pipeline.release.approval import Approval, ApprovalNeededError
from pipeline.release.candidate import Candidate, run_isolated
from pipeline.release.champion import (
    check_target,
    publish,
    publish_lock,
    reconcile,
)
from pipeline.release.gate import judge
from pipeline.release.imports import ImportUpdate, find_newer
from pipeline.release.measurement import evaluate_champion
from pipeline.release.overrides import Changes
from pipeline.release.receipts import without_receipt
from pipeline.release.tags import BRANCH, SOURCE_TRAILER
from pipeline.release.verdict import Verdict, to_markdown
from pipeline.release.versions import read_model_name
from pipeline.repository.dvc_files import LOCK, locked_outputs
from pipeline.repository.git import read_file, resolve_commit, resolve_ref
from pipeline.repository.refs import BranchMovedError, Target

DAY = 86400.0  # seconds
PUBLISH_ATTEMPTS = 5  # while others move the branch
VERDICT = "reports/verdict.md"


class RetrainOutcome(StrEnum):
    """How a retraining ends; each is the name of a state on Prefect's pages."""

    PUBLISHED = "Published"
    UNCHANGED = "Unchanged"  # the champion has the same outputs
    REJECTED = "Rejected"


# The states of which people are told; Prefect's Paused is one that waits for approval.
NOTIFIED = (RetrainOutcome.PUBLISHED.value, RetrainOutcome.REJECTED.value, "Paused")


@flow(
    name="mnist-retrain",
    task_runner=ThreadPoolTaskRunner(),  # type: ignore[arg-type]  # Prefect types it invariant
    persist_result=False,
)
def retrain(
    rev: str = "HEAD",
    changes: Changes | None = None,
    branch: str = BRANCH,
    remote: str | None = None,
    skip_ci: bool = True,
    update: bool = False,
    approve: bool = False,
    approve_timeout: Annotated[float, Field(ge=0, le=MAX_APPROVAL)] = DAY,
    jobs: Annotated[int, Field(ge=1)] = 1,
) -> State[Any]:
    """Publish what a commit gives, if it passes the gate; leave this folder alone.

    Args:
        rev: the commit whose code and parameters are taken
        changes: parameters to change, such as {"train.learning_rate": 0.002}
        branch: where the champion is, and will be
        remote: of Git, to which branch and tags are pushed
        skip_ci: mark the commit so that no continuous integration runs for it
        update: take imported data as they are now where they were imported from
        approve: let a person decide on Prefect's page whether what the gate passes is published
        approve_timeout: seconds until that person has refused
        jobs: how many stages may be at work at a time
    """
    approval = Approval(approve_timeout) if approve else None
    return run_as_flow(
        lambda: retrain_commit(rev, changes or {}, branch, remote, skip_ci, update, approval, jobs)
    )


def retrain_commit(
    rev: str,
    changes: Changes,
    branch: str,
    remote: str | None,
    skip_ci: bool,
    update: bool,
    approval: Approval | None,
    jobs: int,
) -> State[Any]:
    """Make the candidate and publish it if it passes the gate; return the state of the run."""
    root = Path.cwd()
    commit = resolve_commit(root, rev)
    target = Target(root, read_model_name(root, commit), branch, remote)
    check_target(target)
    get_run_logger().info("retraining commit %s", commit)
    with publish_lock(target, get_run_logger().info), suppress(BranchMovedError):
        reconcile(target)  # if this fails, it fails before hours of training
    newer = find_newer(root, commit, resolve_ref(root, target.ref))
    imports = ImportUpdate(newer, root if update else None)
    run, candidate = run_isolated(root, commit, changes, update=imports, jobs=jobs)
    if candidate is None:
        return run.state
    return publish_if_accepted(target, candidate, skip_ci, approval)


def publish_if_accepted(
    target: Target,
    candidate: Candidate,
    skip_ci: bool,
    approval: Approval | None,
) -> State[Any]:
    """Judge a candidate and publish it; judge it again if another run publishes meanwhile.

    A person is asked while no lock is held, and then it is judged again.
    """
    attempts = 0
    while attempts < PUBLISH_ATTEMPTS:
        try:
            with publish_lock(target, get_run_logger().info):
                return judge_and_publish(target, candidate, skip_ci, approval)
        except BranchMovedError as error:
            attempts += 1
            get_run_logger().info("%s; judging again", error)
        except ApprovalNeededError as needed:
            assert approval
            if refusal := ask_for_approval(target, candidate, approval, needed.verdict):
                return report_verdict(target, RetrainOutcome.REJECTED, refusal)
    raise PipelineError(
        f"{target.branch} was moved by others {PUBLISH_ATTEMPTS} times when this run was to;"
        " run it again"
    )


def ask_for_approval(
    target: Target,
    candidate: Candidate,
    approval: Approval,
    verdict: Verdict,
) -> Verdict | None:
    """Show a person the verdict and wait; return None, or the verdict of a refusal."""
    page = to_markdown(verdict, "Waiting for approval")
    show_verdict(page)
    outputs = sorted(without_receipt(locked_outputs(candidate.lock)))
    return approval.ask(target.root, f"{target.branch} {outputs}", verdict, page)


def judge_and_publish(
    target: Target,
    candidate: Candidate,
    skip_ci: bool,
    approval: Approval | None,
) -> State[Any]:
    """Publish a candidate if it differs from the champion and passes the gate.

    Raises ApprovalNeededError, BranchMovedError.
    """
    tip = reconcile(target)
    if tip and has_same_outputs(target, tip, candidate):
        message = f"{target.branch} has this model already"
        return Completed(name=RetrainOutcome.UNCHANGED.value, message=message)
    log = get_run_logger().info
    champion = evaluate_champion(target, tip, candidate, log) if tip else None
    verdict = judge(candidate.gate, candidate.evaluation, champion)
    if not verdict.passed:
        return report_verdict(target, RetrainOutcome.REJECTED, verdict)
    if approval:
        approval.require(verdict)
    version = publish_candidate(target, candidate, verdict, tip, skip_ci, approval)
    return report_verdict(target, RetrainOutcome.PUBLISHED, verdict, version)


def has_same_outputs(target: Target, tip: str, candidate: Candidate) -> bool:
    locks = (read_file(target.root, tip, LOCK), candidate.lock)
    champion, new = (set(without_receipt(locked_outputs(lock))) for lock in locks)
    return champion == new


def publish_candidate(
    target: Target,
    candidate: Candidate,
    verdict: Verdict,
    tip: str | None,
    skip_ci: bool,
    approval: Approval | None,
) -> str:
    """Publish a candidate with its verdict; return its version."""
    page = to_markdown(verdict, RetrainOutcome.PUBLISHED)
    subject = f"Publish {{version}}: {verdict.metric}{' [skip ci]' if skip_ci else ''}"
    trailers = [
        *(f"Changed: {name} to {value!r}" for name, value in candidate.changes.items()),
        f"{SOURCE_TRAILER}: {candidate.commit}",
        f"Flow-run: {runtime.flow_run.name} {runtime.flow_run.id}",
        *([f"Approval: {approval.answer}"] if approval else []),
    ]
    body = "\n".join([verdict.reason, "", *trailers])
    files = candidate.files | {VERDICT: page.encode()}
    return publish(target, candidate.commit, files, tip, subject, body)


def report_verdict(
    target: Target,
    outcome: RetrainOutcome,
    verdict: Verdict,
    version: str = "",
) -> State[Any]:
    """Show the verdict on the run's page and leave it in a file; return the run's state."""
    text = to_markdown(verdict, f"{outcome} {version}".strip())
    show_verdict(text)
    path = target.root / ".dvc" / "tmp" / "verdicts" / f"{runtime.flow_run.name}.md"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    get_run_logger().info("the verdict: %s", path)
    prefix = f"{version}: " if version else ""
    return Completed(name=outcome.value, message=f"{prefix}{verdict.reason}")


def show_verdict(text: str) -> None:
    description = "Whether the model was published, and why"
    create_markdown_artifact(text, key="verdict", description=description)
