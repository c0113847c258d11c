"""The command `add`: image files become a batch of own images, which DVC tracks and Git may have.

Nothing is changed unless every file is right, or --keep-going is given: what is wrong is found
before the batch is seen in data/own.
"""

import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from pipeline.errors import DataError, ParamsError, PipelineError
from pipeline.mnist.additions import (
    Additions,
    Labelled,
    list_folder,
    list_given,
    note_own_images,
    read_data_set,
    store,
)
from pipeline.mnist.idx import DatasetInfo
from pipeline.mnist.own_data import raise_faults
from pipeline.paths import OWN, RAW
from pipeline.repository.git import GitError, changed_files, commit_file, git, has_git
from pipeline.repository.tracking import TrackedFolder, hold_folder


class Request(NamedTuple):
    paths: list[str]
    label: str | None  # the class of the image files; None for a folder of classes
    batch: str | None  # its name; None for one that no other clone gives
    keep_going: bool  # add what has no fault
    commit: bool


def add(request: Request) -> None:
    """Add images to the workspace in the current folder, and say so; raise DataError at the end."""
    if request.commit and not has_git(Path.cwd()):
        raise ParamsError("--commit needs a Git repository, and this folder is in none")
    known = read_data_set(RAW)
    files = list_files(request, known.info)
    with hold_folder(Path.cwd(), OWN, say) as batches:
        batches.complete()
        note_own_images(known, OWN)
        shown = tqdm(files, unit=" images", leave=False, disable=None)
        additions = store(shown, known, batches.scratch / "new")
        if not request.keep_going:
            raise_faults(additions.faults)
        if additions.new:
            track(request, additions, batches)
    if additions.known:
        print(f"here already, and not added again: {additions.known:,} of the files")
    if request.commit and not additions.new:
        for record in changed_files(Path.cwd(), OWN):
            print(f"not committed yet: {record}")
    if not (additions.new or additions.known or additions.faults):
        raise DataError(f"{request.paths[0]} holds no images; it must have folders of classes")
    raise_faults(additions.faults)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def list_files(request: Request, info: DatasetInfo) -> Iterable[Labelled]:
    """Return the files with their labels; raise ParamsError if it is not clear what these are."""
    if request.label is not None:
        return list_given(request.paths, request.label, info)
    if len(request.paths) > 1 or Path(request.paths[0]).is_file():
        raise ParamsError(
            "name one folder with a subfolder for each class, or give the class of the images:"
            " --label CLASS"
        )
    return list_folder(Path(request.paths[0]), info)


def track(request: Request, additions: Additions, batches: TrackedFolder) -> None:
    """Make the stored images a batch, and commit it or say how to."""
    batch = request.batch or f"{date.today()}-{additions.digest[:6]}"
    if batches.holds(batch):
        raise ParamsError(f"{OWN / batch} is there already; choose another name: --batch")
    (batches.scratch / "new").rename(batches.scratch / batch)
    has_remote = batches.has_remote
    batches.add(batch, push=request.commit and has_remote)
    print(f"added {name_images(additions)}: {additions.classes}, in {OWN / batch}")
    if request.commit:
        print("pushed to DVC's remote\n" * has_remote, end="")
        commit(batch, additions)
    elif commands := to_keep(batch, additions, has_remote):
        print("to keep them:", *commands, sep="\n  ")


def name_images(additions: Additions) -> str:
    return f"{additions.count:,} image{'s' * (additions.count != 1)}"


def to_keep(batch: str, additions: Additions, has_remote: bool = False) -> list[str]:
    """Return the commands by which a batch gets into every clone; none without Git and remote."""
    record = OWN / f"{batch}.dvc"
    message = f"Add {name_images(additions)}"
    commits = [f"git add {record}", f"git commit --message '{message}' {record}"]
    return [f"dvc push {record}"] * has_remote + commits * has_git(Path.cwd())


def commit(batch: str, additions: Additions) -> None:
    """Commit the batch's record on the current branch, and tell Prefect."""
    from pipeline.orchestration.events import announce_data  # takes longer than all else here

    root, record = Path.cwd(), OWN / f"{batch}.dvc"
    message = f"Add {name_images(additions)}\n\n{additions.classes}, in {OWN / batch}\n"
    try:
        made = commit_file(root, record, message)
    except GitError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        later = " && ".join(to_keep(batch, additions))
        raise PipelineError(f"they are not committed: {reason}; do it later: {later}") from error
    branch = git(root, "branch", "--show-current") or "no branch; git switch --create NAME keeps it"
    print(f"committed {made[:7]} on {branch}")
    if announce_data(root, batch, additions.count):
        print("told Prefect's server, which retrains if a deployment waits for data")
