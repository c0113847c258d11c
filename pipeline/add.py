"""The command `add`: image files become a batch of own images, which DVC tracks and Git may have.

Nothing is changed unless every file is right, or --keep-going is given: what is wrong is found
before the batch is seen in data/own.
"""

import shlex
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
from pipeline.repository.git import GitError, commit_file, git, git_common_dir
from pipeline.repository.tracking import TrackedFolder, hold_folder


class Request(NamedTuple):
    paths: list[str]
    label: str | None  # the class of the image files; None for a folder of classes
    batch: str | None  # its name; None for one that no other clone gives
    keep_going: bool  # add what has no fault
    commit: bool


def add(request: Request) -> None:
    """Add images to the workspace in the current folder, and say so; raise DataError at the end."""
    if request.commit:
        git_common_dir(Path.cwd())  # without Git this is refused before the work
    known = read_data_set(RAW)
    files = list_files(request, known.info)
    with hold_folder(Path.cwd(), OWN, say) as batches:
        if request.batch and batches.holds(request.batch):
            raise ParamsError(f"{OWN / request.batch} is there already; choose another --batch")
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
    (batches.scratch / "new").rename(batches.scratch / batch)
    batches.add(batch, push=request.commit and batches.has_remote)
    print(f"added {additions.summary}, in {OWN / batch}")
    if request.commit:
        commit(batch, additions)
    else:
        print("to keep them:", *to_keep(batch, additions, batches.has_remote), sep="\n  ")


def to_keep(batch: str, additions: Additions, has_remote: bool) -> list[str]:
    """Return the commands by which a batch gets into every clone."""
    record = OWN / f"{batch}.dvc"
    message = shlex.quote(f"Add {additions.summary}")
    commands = [f"git add {record}", f"git commit --message {message} {record}"]
    return [f"dvc push {record}"] * has_remote + commands


def commit(batch: str, additions: Additions) -> None:
    """Commit the batch's record on the current branch, and tell Prefect."""
    from pipeline.orchestration.events import announce_data  # takes longer than all else here

    root = Path.cwd()
    try:
        made = commit_file(root, OWN / f"{batch}.dvc", f"Add {additions.summary}")
    except GitError as error:
        commands = " && ".join(to_keep(batch, additions, has_remote=False))
        raise PipelineError(f"they are not committed: {error}; do it later: {commands}") from error
    branch = git(root, "branch", "--show-current") or "no branch; git switch --create NAME keeps it"
    print(f"committed {made[:7]} on {branch}")
    if announce_data(root, batch, additions.count):
        print("told Prefect's server, which retrains if a deployment waits for data")
