"""Retraining as a transaction: a better model is published, or nothing happened.

A commit's graph is brought up to date in a worktree of its own, what it gives is judged against the
champion, and takes its place whole. The run ends Published, Unchanged or Rejected. All three are
Completed for Prefect: a gate that closes has done its work, and Failed is left for what calls for
somebody.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from pipeline.errors import PipelineError
from pipeline.files import atomic_write
from pipeline.orchestration.lifecycle import run_as_flow
from pipeline.release.candidate import Candidate, run_isolated
from pipeline.release.champion import (
    BRANCH,
    check_target,
    publish,
    publish_lock,
    read_evaluation,
    reconcile,
)
from pipeline.release.gate import Evaluation, Verdict, judge, to_markdown
from pipeline.release.versions import read_model_name
from pipeline.repository.dvc_files import LOCK, locked_outputs
from pipeline.repository.git import read_file, resolve_commit
from pipeline.repository.refs import BranchMovedError, Target

PUBLISH_ATTEMPTS = 5  # at publishing, while others move the branch
VERDICT = "reports/verdict.md"


@flow(name="mnist-retrain", task_runner=ThreadPoolTaskRunner(), persist_result=False)  # type: ignore[arg-type]
def retrain(
    rev: str = "HEAD",
    changes: dict[str, Any] | None = None,
    branch: str = BRANCH,
    remote: str | None = None,
    skip_ci: bool = True,
) -> State[Any]:
    """Publish what a commit gives on a branch, if it is better than what is there; leave the
    current folder alone.

    Args:
        rev: the commit whose code and parameters are taken
        changes: parameters to change, such as {"train.learning_rate": 0.002}
        branch: where the champion is, and will be
        remote: of Git, to which branch and tags are pushed
        skip_ci: mark the commit so that no continuous integration runs for it
    """

    return run_as_flow(lambda: retrain_commit(rev, changes or {}, branch, remote, skip_ci))


def retrain_commit(
    rev: str,
    changes: dict[str, Any],
    branch: str,
    remote: str | None,
    skip_ci: bool,
) -> State[Any]:
    """Make the candidate and publish it if it is better; return the state of the run."""
    root = Path.cwd()
    commit = resolve_commit(root, rev)
    target = Target(root, read_model_name(root, commit), branch, remote)
    check_target(target)
    with publish_lock(target, get_run_logger().info), suppress(BranchMovedError):
        reconcile(target)  # before hours of training, for what it may find wrong
    candidate = run_isolated(root, commit, changes)
    if not candidate.state.is_completed():
        return candidate.state
    return publish_if_better(target, candidate, skip_ci)


def publish_if_better(target: Target, candidate: Candidate, skip_ci: bool = True) -> State[Any]:
    """Judge a candidate and publish it; on the loss of a race judge it again, against the
    winner.
    """
    for _ in range(PUBLISH_ATTEMPTS):
        try:
            with publish_lock(target, get_run_logger().info):
                return judge_and_publish(target, candidate, skip_ci)
        except BranchMovedError as error:
            get_run_logger().info("%s; judging again", error)
    raise PipelineError(
        f"{target.branch} was moved by others {PUBLISH_ATTEMPTS} times when this run was to;"
        " run it again"
    )


def judge_and_publish(target: Target, candidate: Candidate, skip_ci: bool) -> State[Any]:
    tip = reconcile(target)
    if tip and set(locked_outputs(read_file(target.root, tip, LOCK))) == set(
        locked_outputs(candidate.lock)
    ):
        return Completed(name="Unchanged", message=f"{target.branch} has this model already")
    ours = Evaluation(candidate.metrics, candidate.predictions)
    verdict = judge(candidate.gate, ours, read_evaluation(target, tip) if tip else None)
    if not verdict.passed:
        return report_verdict(target, "Rejected", verdict)
    return report_verdict(
        target, "Published", verdict, publish_candidate(target, candidate, verdict, tip, skip_ci)
    )


def publish_candidate(
    target: Target, candidate: Candidate, verdict: Verdict, tip: str | None, skip_ci: bool
) -> str:
    """Return the version."""
    files = candidate.files | {VERDICT: to_markdown(verdict, "Published").encode()}
    metric = f"{verdict.gate.metric} {verdict.candidate:.2%}"
    subject = f"Publish {{version}}: {metric}{' [skip ci]' * skip_ci}"
    trailers = [
        *(f"Changed: {name} to {value!r}" for name, value in candidate.changes.items()),
        f"Retrained-from: {candidate.commit}",
        f"Flow-run: {runtime.flow_run.name} {runtime.flow_run.id}",
    ]
    body = "\n".join([verdict.reason, "", *trailers])
    return publish(target, candidate.commit, files, tip, subject, body)


def report_verdict(target: Target, name: str, verdict: Verdict, version: str = "") -> State[Any]:
    """Tell of the verdict: in the run's state, on its page, and in a file for whoever has
    no page.
    """
    text = to_markdown(verdict, f"{name} {version}".strip())
    create_markdown_artifact(
        text, key="verdict", description="Whether the model was published, and why"
    )
    path = target.root / ".dvc" / "tmp" / "verdicts" / f"{runtime.flow_run.name}.md"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    get_run_logger().info("the verdict: %s", path)
    return Completed(name=name, message=f"{version + ': ' if version else ''}{verdict.reason}")
