"""The champion is the model at the tip of a branch. It is replaced whole or not at all.

Its new commit is made without a checkout. The data goes to DVC's remote first. The branch and the
tags of its version then move together, if they still are where they were; those of a Git remote
before those here, so that a refusal leaves nothing to undo. Whatever a kill leaves between two
steps the next run completes (`settle`): a remote that is ahead, a branch whose tags are missing, a
ref that a dead Git has locked.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from filelock import FileLock, Timeout

from pipeline.errors import PipelineError
from pipeline.files import atomic_write
from pipeline.paths import METRICS, PREDICTIONS
from pipeline.release.gate import Evaluation
from pipeline.release.versions import (
    TRAILER,
    annotated_tags,
    champion_version,
    missing_tags,
    next_version,
    read_metrics,
)
from pipeline.repository.dvc_files import configure_dvc, has_remote
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.git import (
    GitError,
    git,
    git_common_dir,
    is_ancestor,
    make_commit,
    read_file,
    resolve_ref,
)
from pipeline.repository.processes import RunCancelledError, current_scope
from pipeline.repository.refs import (
    JOURNAL,
    Target,
    push_refs,
    raise_refused,
    remove_stale_ref_locks,
    run_remote_git,
    update_refs,
)
from pipeline.repository.worktree import worktree

BRANCH = "champion"


def check_target(target: Target) -> None:
    """Raise PipelineError where nothing may be published."""
    try:
        git(target.root, "check-ref-format", "--branch", target.branch)
    except GitError as error:
        raise PipelineError(
            f"{target.branch} is no name for a branch; publish to another, such as {BRANCH}"
        ) from error
    folder = ""
    for line in git(target.root, "worktree", "list", "--porcelain").splitlines():
        kind, _, value = line.partition(" ")
        folder = value if kind == "worktree" else folder
        if (kind, value) == ("branch", target.ref):
            raise PipelineError(
                f"{target.branch} is checked out in {folder}, where publishing would change it"
                " under somebody's hands;"
                f" publish to another branch, such as {BRANCH}, or check out another there"
            )


@contextmanager
def publish_lock(target: Target, say: Callable[[str], object] = print) -> Iterator[None]:
    """Be the only run that publishes in this repository; the kernel frees the lock with the
    process.
    """
    lock = FileLock(git_common_dir(target.root) / "publish.lock")
    announced = False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1)
        except Timeout as error:
            if current_scope().is_cancelled:
                raise RunCancelledError("stopped while another run published") from error
            if not announced:
                say("waiting for another run that publishes here")
            announced = True
    try:
        remove_stale_ref_locks(target.root)
        yield
    finally:
        lock.release()


def reconcile(target: Target) -> str | None:
    """Complete what a killed run began, here and on the remote; return the branch's tip, of which
    all then is there.
    """
    theirs = fetch_refs(target) if target.remote else {}
    tip = fast_forward(target, theirs.get(target.ref))
    if not tip:
        return None
    missing = missing_tags(target.root, target.artifact, tip)
    update_refs(target, missing)
    if target.remote:
        ours = {target.ref: tip} | list_tags(target)
        push_refs(
            target,
            {ref: new for ref, new in ours.items() if theirs.get(ref) != new},
            theirs.get(target.ref),
        )
    return tip


def fetch_refs(target: Target) -> dict[str, str]:
    """The remote's branch and tags, and all that they need."""
    assert target.remote
    patterns = [f"refs/tags/{target.artifact}{mark}*" for mark in "@#"]
    lines = run_remote_git(target, "ls-remote", "--refs", target.remote, target.ref, *patterns)
    found = [
        re.fullmatch(r"([0-9a-f]{40,64})\t(.+)", line) for line in lines
    ]  # among a server's own words
    theirs = {match[2]: match[1] for match in found if match}
    if theirs:
        wanted = [target.ref] * (target.ref in theirs) + [
            f"{pattern}:{pattern}" for pattern in patterns
        ]
        run_remote_git(
            target,
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--refmap=",
            target.remote,
            *wanted,
        )
    return theirs


def fast_forward(target: Target, theirs: str | None) -> str | None:
    """The later tip of the branch, here and on the remote, made the one here."""
    ours = resolve_ref(target.root, target.ref)
    if theirs is None or ours == theirs or (ours and is_ancestor(target.root, theirs, ours)):
        return ours
    if ours and not is_ancestor(target.root, ours, theirs):
        raise PipelineError(
            f"{target.branch} here and on {target.remote} have each what the other has not;"
            f" set one to the other with git branch --force {target.branch} COMMIT or git push"
        )
    update_refs(target, {target.ref: theirs}, ours)
    return theirs


def list_tags(target: Target) -> dict[str, str]:
    patterns = [f"refs/tags/{target.artifact}{mark}*" for mark in "@#"]
    lines = git(
        target.root, "for-each-ref", "--format=%(refname) %(objectname)", *patterns
    ).splitlines()
    return {ref: tag for ref, _, tag in (line.partition(" ") for line in lines)}


def read_evaluation(target: Target, tip: str) -> Evaluation:
    return Evaluation(
        read_metrics(read_file(target.root, tip, METRICS)), read_predictions(target, tip)
    )


def read_predictions(target: Target, tip: str) -> bytes:
    """From DVC's cache or its remote; empty where neither has them."""
    with worktree(target.root, tip, "champion") as (tree, scratch):
        configure_dvc(tree, scratch, inherit=target.root)
        with DvcWorker(tree) as dvc:
            for command in ("checkout", "pull"):
                if dvc.request(command, "--quiet", str(PREDICTIONS)).code == 0:
                    break
        return (tree / PREDICTIONS).read_bytes() if (tree / PREDICTIONS).is_file() else b""


def publish(
    target: Target,
    source: str,
    files: Mapping[str, bytes],
    tip: str | None,
    subject: str,
    body: str,
) -> str:
    """Make `source` with `files` the champion after `tip`; return its version.

    Raises RaceLostError.
    """
    version = next_version(target.root, target.artifact)
    # the champions' history is a line; it goes on from the source where that holds the champion
    # already
    parent = tip if tip and not is_ancestor(target.root, tip, source) else source
    message = f"{subject.format(version=version)}\n\n{body}\n{TRAILER}: {version}\n"
    commit = make_commit(target.root, source, files, parent, message)
    push_data(target, commit)
    move_champion(target, commit, tip)
    return version


def promote(target: Target, name: str) -> str:
    """Make an earlier version the champion again; raise PipelineError where there is no such
    version.
    """
    version = name if "@" in name else f"{target.artifact}@{name}"
    with publish_lock(target):
        tip = reconcile(target)
        known = annotated_tags(target.root, f"{target.artifact}@*")
        if version not in known or not tip:
            names = ", ".join(known).replace(f"{target.artifact}@", "") or "none yet"
            raise PipelineError(
                f"there is no version {name} of {target.artifact}; there are: {names}"
            )
        if champion_version(target.root, tip) == version:
            return f"{version} is the champion already"
        message = f"Promote {version}\n\n{TRAILER}: {version}\n"
        move_champion(target, make_commit(target.root, known[version], {}, tip, message), tip)
        return f"{version} is the champion again"


def push_data(target: Target, commit: str) -> None:
    """Bring what the commit's dvc.lock names to DVC's remote, if there is one."""
    if not has_remote(target.root):
        return
    with worktree(target.root, commit, "publish") as (tree, scratch):
        configure_dvc(tree, scratch, inherit=target.root)
        with DvcWorker(tree) as dvc:
            answer = dvc.request("push")
    if answer.code:
        raise_refused("dvc push", answer.errors.splitlines())


def move_champion(target: Target, commit: str, tip: str | None) -> None:
    """Move the branch from `tip` to `commit`, with the tags that tell of it, on the remote and
    here.
    """
    current_scope().raise_if_cancelled()
    updates = {target.ref: commit} | missing_tags(target.root, target.artifact, commit)
    journal = git_common_dir(target.root) / JOURNAL
    with atomic_write(journal) as temporary:
        temporary.write_text(json.dumps({"remote": target.remote, "refs": updates}))
    if target.remote:
        push_refs(target, updates, tip)
    update_refs(target, updates, tip)
    journal.unlink()
