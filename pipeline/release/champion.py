"""The champion is the model at the tip of a branch. It is replaced whole or not at all.

Each branch has a line of champions and a stage of GTO of its own; the versions are of all branches.

A run that publishes holds `publish_lock`, so it is the only one in this repository. Other
repositories may publish to the same Git remote at the same time. Its steps, in this order:

1. `reconcile` completes what an earlier run left on this branch, as in steps 5 to 8. After it the
   branch and the tags are whole, here and on the Git remote.
2. `make_champion_commit` writes the new commit, without a checkout. No ref names it yet.
3. `push_data` copies the commit's data to DVC's remote, if there is one.
4. `missing_tags` writes the objects of two tags, for the version and for the branch's stage. No ref
   names them yet.
5. `write_journal` notes the refs that are about to move and their new values: the branch and the
   tags.
6. `push_refs` moves them on the Git remote, if there is one, all or none.
7. `update_refs` moves them here, all or none.
8. `remove_journal` ends it.

Steps 6 and 7 refuse to move a branch that is not where step 1 found it (BranchMovedError). A
remote that refuses step 6 leaves nothing to undo here. A run that is cancelled before step 4 moves
nothing; a cancel within step 6 is like a kill. `promote` takes the same steps without the third,
for a version whose data is on the remote already.

A kill leaves one of these, and the next run completes it:

- Before step 6: the old champion, here and there. Objects that no ref names do no harm.
- Within step 6 or 7: locks on refs, if Git was killed too. `publish_lock` removes those that the
  journal names.
- Within step 6 or 7: a branch without its tags, since Git moves one ref after the other.
  `reconcile` makes the tags again. They are the same objects: all that is in them is in the commit.
  If another branch has taken the version meanwhile, `renew` gives the model the next one.
- After step 6: a remote that is ahead. `reconcile` moves the branch here to where it is there.
- After step 7: a journal. `publish_lock` removes it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from filelock import FileLock, Timeout

from pipeline.errors import PipelineError
from pipeline.release.tags import (
    BRANCH,
    annotated_tags,
    champion_version,
    make_champion_commit,
    missing_tags,
    next_version,
    renew,
    source_trailer,
)
from pipeline.repository.dvc_files import configure_dvc, has_remote
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.git import GitError, git, git_common_dir, is_ancestor
from pipeline.repository.processes import RunCancelledError, current_scope
from pipeline.repository.refs import (
    RefUpdate,
    Target,
    fetch_refs,
    list_refs,
    push_refs,
    raise_refused,
    remove_journal,
    remove_stale_ref_locks,
    update_refs,
    write_journal,
)
from pipeline.repository.worktree import worktree


def check_target(target: Target) -> None:
    """Raise PipelineError if the branch has no valid name or is checked out somewhere."""
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
def publish_lock(target: Target, log: Callable[[str], object] = print) -> Iterator[None]:
    """Wait until no other run publishes in this repository, and keep others out meanwhile.

    The kernel frees the lock when its holder dies. Locks that a dead run has left on refs are
    removed.
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
                log("waiting for another run that publishes here")
            announced = True
    try:
        remove_stale_ref_locks(target.root)
        yield
    finally:
        lock.release()


def reconcile(target: Target) -> str | None:
    """Take step 1; return the commit of the branch, None if there is no branch yet.

    Raises PipelineError if the branch here and the one on the remote have parted.
    """
    there = fetch_refs(target)
    here = list_refs(target)  # now with the remote's tags
    tip = later_commit(target, here.get(target.ref), there.get(target.ref))
    if not tip:
        return None
    tip = renew(target, tip)
    wanted = here | target.branch_at(tip) | missing_tags(target, tip)
    move_refs(target, RefUpdate(here, there, wanted))
    return tip


def later_commit(target: Target, here: str | None, there: str | None) -> str | None:
    """Return whichever of the branch's two commits holds the other."""
    if not here or not there or here == there:
        return here or there
    if is_ancestor(target.root, there, here):
        return here
    if is_ancestor(target.root, here, there):
        return there
    raise PipelineError(
        f"{target.branch} here and on {target.remote} have each what the other has not;"
        f" set one to the other with git branch --force {target.branch} COMMIT or git push"
    )


def publish(
    target: Target,
    source: str,
    files: Mapping[str, bytes],
    tip: str | None,
    subject: str,
    body: str,
) -> str:
    """Take steps 2 to 8; return the version of the new champion.

    Args:
        target: where it is published
        source: the commit whose tree it has
        files: what it has in place of the source's files, or in addition
        tip: the commit of the branch, as `reconcile` returned it
        subject: of the commit's message, with {version} for the version
        body: of the commit's message

    Raises BranchMovedError.
    """
    version = next_version(target.root, target.artifact)
    # Champions follow one another in a line. A source that holds the champion goes on with it.
    parent = tip if tip and not is_ancestor(target.root, tip, source) else source
    message = f"{subject.format(version=version)}\n\n{body}\n"
    commit = make_champion_commit(target, source, files, parent, message, version)
    push_data(target, commit)
    move_champion(target, commit, tip)
    return version


def promote(target: Target, name: str) -> str:
    """Make a version the champion of the branch; return what was done, as a sentence.

    It may have been published on another branch. Raises PipelineError if there is no such version.
    """
    version = name if "@" in name else f"{target.artifact}@{name}"
    with publish_lock(target):
        tip = reconcile(target)
        known = annotated_tags(target.root, f"{target.artifact}@*")
        if version not in known:
            names = ", ".join(known).replace(f"{target.artifact}@", "") or "none yet"
            raise PipelineError(
                f"there is no version {name} of {target.artifact}; there are: {names}"
            )
        if tip and champion_version(target.root, tip) == version:
            return f"{version} is the champion of the branch {target.branch} already"
        source = known[version]
        message = f"Promote {version}\n\n{source_trailer(target.root, source)}"
        commit = make_champion_commit(target, source, {}, tip or source, message, version)
        move_champion(target, commit, tip)
        return f"{version} is now the champion of the branch {target.branch}"


def push_data(target: Target, commit: str) -> None:
    """Copy what the commit's dvc.lock names to DVC's remote, if there is one."""
    if not has_remote(target.root):
        return
    with worktree(target.root, commit, "publish") as (tree, scratch):
        configure_dvc(tree, scratch, inherit=target.root)
        with DvcWorker(tree) as dvc:
            answer = dvc.request("push")
    if answer.code:
        raise_refused("dvc push", answer.errors.splitlines())


def move_champion(target: Target, commit: str, tip: str | None) -> None:
    """Take steps 4 to 8: move the branch from `tip` to `commit`, and the tags with it."""
    current_scope().raise_if_cancelled()
    old = target.branch_at(tip)
    wanted = target.branch_at(commit) | missing_tags(target, commit)
    move_refs(target, RefUpdate(here=old, there=old, wanted=wanted))


def move_refs(target: Target, update: RefUpdate) -> None:
    """Take steps 5 to 8."""
    if changes := update.changes_here | update.changes_there:
        write_journal(target, changes)
        push_refs(target, update)
        update_refs(target, update)
        remove_journal(target)
