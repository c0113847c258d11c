"""The champion is the model at the tip of a branch. It is replaced whole or not at all.

Its new commit is made without a checkout. The data goes to DVC's remote first. The branch and the tags of its version
then move together, if they still are where they were; those of a Git remote before those here, so that a refusal
leaves nothing to undo. Whatever a kill leaves between two steps the next run completes (`settle`): a remote that is
ahead, a branch whose tags are missing, a ref that a dead Git has locked.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from pipeline.errors import PipelineError
from pipeline.files import atomic_write
from pipeline.gate import Result
from pipeline.git import OPTIONS, GitError, common_folder, git, read_file
from pipeline.graph import DVC, environment
from pipeline.registry import METRICS, TRAILER, missing_tags, next_version, read_metrics, tags, version_of
from pipeline.supervisor import Command, Lifeline, StoppedError
from pipeline.worktree import has_remote, share_cache, worktree

BRANCH = "champion"
PREDICTIONS = "reports/predictions.csv"
JOURNAL = "publish.json"  # in Git's folder: what a run is about to move, and where to


class RaceLostError(PipelineError):
    """Somebody else moved the branch."""


@dataclass(frozen=True)
class Target:
    """Where a model is published."""

    root: Path
    artifact: str
    branch: str
    remote: str | None  # of Git, by name or address
    lifeline: Lifeline

    @property
    def ref(self) -> str:
        return f"refs/heads/{self.branch}"


def check_target(target: Target) -> None:
    """Raise PipelineError where nothing may be published."""
    try:
        git(target.root, "check-ref-format", "--branch", target.branch)
    except GitError as error:
        raise PipelineError(f"{target.branch} is no name for a branch; publish to another, such as {BRANCH}") from error
    folder = ""
    for line in git(target.root, "worktree", "list", "--porcelain").splitlines():
        kind, _, value = line.partition(" ")
        folder = value if kind == "worktree" else folder
        if (kind, value) == ("branch", target.ref):
            raise PipelineError(
                f"{target.branch} is checked out in {folder}, where publishing would change it under somebody's hands;"
                f" publish to another branch, such as {BRANCH}, or check out another there"
            )


@contextmanager
def exclusive(target: Target, say: Callable[[str], object] = print) -> Iterator[None]:
    """Be the only run that publishes in this repository; the kernel frees the lock with the process."""
    lock = FileLock(common_folder(target.root) / "publish.lock")
    announced = False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1)
        except Timeout as error:
            if target.lifeline.is_cut:
                raise StoppedError("stopped while another run published") from error
            if not announced:
                say("waiting for another run that publishes here")
            announced = True
    try:
        free_refs(target.root)
        yield
    finally:
        lock.release()


def free_refs(root: Path) -> None:
    """Remove the locks of a killed Git: those on the refs that a dead run was to move, to where it was to move them."""
    journal = common_folder(root) / JOURNAL
    if not journal.is_file():
        return
    noted = json.loads(journal.read_bytes())
    for ref, new in noted["refs"].items():
        for repository in (common_folder(root), *remote_folder(root, noted["remote"])):
            lock = repository / f"{ref}.lock"
            if lock.is_file() and lock.read_text().strip() in ("", new):
                lock.unlink(missing_ok=True)
    journal.unlink()


def remote_folder(root: Path, remote: str | None) -> list[Path]:
    """Git's folder of the remote, where that is a folder of this machine."""
    if not remote:
        return []
    url = git(root, "ls-remote", "--get-url", remote).removeprefix("file://")
    folder = Path(git(root, "rev-parse", "--show-toplevel")) / url
    return [common_folder(folder)] if folder.is_dir() else []


def settle(target: Target) -> str | None:
    """Complete what a killed run began, here and on the remote; return the branch's tip, of which all then is there."""
    theirs = fetch(target) if target.remote else {}
    tip = unite(target, theirs.get(target.ref))
    if not tip:
        return None
    missing = missing_tags(target.root, target.artifact, tip)
    move(target, missing)
    if target.remote:
        ours = {target.ref: tip} | list_tags(target)
        push(target, {ref: new for ref, new in ours.items() if theirs.get(ref) != new}, theirs.get(target.ref))
    return tip


def fetch(target: Target) -> dict[str, str]:
    """The remote's branch and tags, and all that they need."""
    assert target.remote
    patterns = [f"refs/tags/{target.artifact}{mark}*" for mark in "@#"]
    lines = talk(target, "ls-remote", "--refs", target.remote, target.ref, *patterns)
    found = [re.fullmatch(r"([0-9a-f]{40,64})\t(.+)", line) for line in lines]  # among a server's own words
    theirs = {match[2]: match[1] for match in found if match}
    if theirs:
        wanted = [target.ref] * (target.ref in theirs) + [f"{pattern}:{pattern}" for pattern in patterns]
        talk(target, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--refmap=", target.remote, *wanted)
    return theirs


def unite(target: Target, theirs: str | None) -> str | None:
    """The later tip of the branch, here and on the remote, made the one here."""
    ours = look_up(target.root, target.ref)
    if theirs is None or ours == theirs or (ours and is_ancestor(target.root, theirs, ours)):
        return ours
    if ours and not is_ancestor(target.root, ours, theirs):
        raise PipelineError(
            f"{target.branch} here and on {target.remote} have each what the other has not;"
            f" set one to the other with git branch --force {target.branch} COMMIT or git push"
        )
    move(target, {target.ref: theirs}, ours)
    return theirs


def look_up(root: Path, ref: str) -> str | None:
    return git(root, "for-each-ref", "--format=%(objectname)", ref) or None


def is_ancestor(root: Path, one: str, other: str) -> bool:
    return git(root, "rev-list", "--max-count=1", one, f"^{other}") == ""


def list_tags(target: Target) -> dict[str, str]:
    patterns = [f"refs/tags/{target.artifact}{mark}*" for mark in "@#"]
    lines = git(target.root, "for-each-ref", "--format=%(refname) %(objectname)", *patterns).splitlines()
    return {ref: tag for ref, _, tag in (line.partition(" ") for line in lines)}


def read_result(target: Target, tip: str) -> Result:
    return Result(read_metrics(read_file(target.root, tip, METRICS)), read_predictions(target, tip))


def outs_of(lock: str | bytes) -> dict[str, str]:
    """Every output that a dvc.lock names, and its hash."""
    stages = (YAML(typ="safe").load(lock) or {}).get("stages", {}) if lock else {}
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}


def read_predictions(target: Target, tip: str) -> bytes:
    """From DVC's cache or its remote; empty where neither has them."""
    with worktree(target.root, tip, "champion") as (tree, beside):
        share_cache(target.root, tree, beside)
        for command in ("checkout", "pull"):
            arguments = [*DVC, command, "--quiet", PREDICTIONS]
            if Command(arguments, target.lifeline, tree, environment()).read()[0] == 0:
                break
        return (tree / PREDICTIONS).read_bytes() if (tree / PREDICTIONS).is_file() else b""


def make_commit(target: Target, source: str, files: Mapping[str, bytes], parent: str, message: str) -> str:
    """A commit of `source`'s tree with `files` in it, which no ref knows yet; nobody's index is touched."""
    prefix = git(target.root, "rev-parse", "--show-prefix")
    with tempfile.TemporaryDirectory(prefix="publish-") as name:
        index = {"GIT_INDEX_FILE": str(Path(name) / "index")}
        git(target.root, "read-tree", source, variables=index)
        for path, content in files.items():
            blob = git(target.root, "hash-object", "-w", "--stdin", content=content)
            git(target.root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{prefix}{path}", variables=index)
        tree = git(target.root, "write-tree", variables=index)
    return git(
        target.root, "commit-tree", tree, "-p", parent, content=message.encode(), variables=identity(target.root)
    )


def identity(root: Path) -> dict[str, str]:
    """Who commits: whoever Git knows here, or else this pipeline."""
    try:
        git(root, "var", "GIT_COMMITTER_IDENT"), git(root, "var", "GIT_AUTHOR_IDENT")
        return {}
    except GitError:
        who = {"NAME": "mnist pipeline", "EMAIL": "pipeline@localhost"}
        return {f"GIT_{role}_{name}": value for role in ("AUTHOR", "COMMITTER") for name, value in who.items()}


def publish(target: Target, source: str, files: Mapping[str, bytes], tip: str | None, subject: str, body: str) -> str:
    """Make `source` with `files` the champion after `tip`; return its version. Raises RaceLostError."""
    version = next_version(target.root, target.artifact)
    # the champions' history is a line; it goes on from the source where that holds the champion already
    parent = tip if tip and not is_ancestor(target.root, tip, source) else source
    message = f"{subject.format(version=version)}\n\n{body}\n{TRAILER}: {version}\n"
    commit = make_commit(target, source, files, parent, message)
    push_data(target, commit)
    put(target, commit, tip)
    return version


def promote(target: Target, name: str) -> str:
    """Make an earlier version the champion again; raise PipelineError where there is no such version."""
    version = name if "@" in name else f"{target.artifact}@{name}"
    with exclusive(target):
        tip = settle(target)
        known = tags(target.root, f"{target.artifact}@*")
        if version not in known or not tip:
            names = ", ".join(known).replace(f"{target.artifact}@", "") or "none yet"
            raise PipelineError(f"there is no version {name} of {target.artifact}; there are: {names}")
        if version_of(target.root, tip) == version:
            return f"{version} is the champion already"
        message = f"Promote {version}\n\n{TRAILER}: {version}\n"
        put(target, make_commit(target, known[version], {}, tip, message), tip)
        return f"{version} is the champion again"


def push_data(target: Target, commit: str) -> None:
    """Bring what the commit's dvc.lock names to DVC's remote, if there is one."""
    if not has_remote(target.root):
        return
    with worktree(target.root, commit, "publish") as (tree, beside):
        share_cache(target.root, tree, beside)
        code, lines = Command([*DVC, "push"], target.lifeline, tree, environment()).read()
    if code:
        complain(target, "dvc push", lines)


def put(target: Target, commit: str, tip: str | None) -> None:
    """Move the branch from `tip` to `commit`, with the tags that tell of it, on the remote and here."""
    updates = {target.ref: commit} | missing_tags(target.root, target.artifact, commit)
    journal = common_folder(target.root) / JOURNAL
    with atomic_write(journal) as temporary:
        temporary.write_text(json.dumps({"remote": target.remote, "refs": updates}))
    if target.remote:
        push(target, updates, tip)
    move(target, updates, tip)
    journal.unlink()


def move(target: Target, updates: Mapping[str, str], tip: str | None = None) -> None:
    """Set refs, all or none: the branch if it still is at `tip`, a tag if it is not there yet; raise RaceLostError."""
    if not updates:
        return
    old = {target.ref: tip} if tip else {}
    # zeros, as many as a hash has digits: the ref must not be there yet
    lines = [f"update {ref} {new} {old.get(ref, '0' * len(new))}" for ref, new in updates.items()]
    try:
        git(target.root, "update-ref", "--stdin", content="\n".join(["start", *lines, "commit", ""]).encode())
    except GitError as error:
        if target.ref in updates and look_up(target.root, target.ref) != tip:
            raise RaceLostError(f"{target.branch} was moved by somebody else") from error
        raise


def push(target: Target, updates: Mapping[str, str], tip: str | None) -> None:
    """The same on the remote; raise RaceLostError where its branch is no longer at `tip`."""
    if not updates:
        return
    assert target.remote
    refspecs = [f"{new}:{ref}" for ref, new in updates.items()]
    try:
        talk(target, "push", "--quiet", "--atomic", "--no-follow-tags", target.remote, *refspecs)
    except GitError as error:
        found = talk(target, "ls-remote", "--refs", target.remote, target.ref)
        if not any(line.startswith(f"{tip}\t") for line in found) if tip else found:
            raise RaceLostError(f"{target.branch} was moved on {target.remote} by somebody else") from error
        raise


def talk(target: Target, *arguments: str) -> list[str]:
    """Run a git command that may wait for another machine, and that ends with this process; return its lines."""
    variables = environment() | {"GIT_TERMINAL_PROMPT": "0"}
    code, lines = Command(["git", *OPTIONS, *arguments], target.lifeline, target.root, variables).read()
    if code:
        complain(target, f"git {arguments[0]} {target.remote}", lines)
    return lines


def complain(target: Target, what: str, lines: list[str]) -> None:
    """Raise, with what matters of a failed command's output in one line."""
    if target.lifeline.is_cut:
        raise StoppedError(f"{what} was stopped")
    telling = [line.strip() for line in lines if re.match(r"remote: \S|fatal: |error: |ERROR: | ! \[", line)]
    raise GitError(f"{what} was refused: {'; '.join(telling or lines[-1:]) or 'it said nothing'}")
