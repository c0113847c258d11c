"""The command `add`: image files become a batch of own images, which DVC tracks and Git may have.

Nothing is changed unless every file is right, or --keep-going is given: what is wrong is found
before the batch is seen in data/own.
"""

import shlex
import sys
from collections.abc import Iterable, Sequence
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
from pipeline.params import parse_yaml
from pipeline.paths import OWN, RAW
from pipeline.repository.git import GitError, commit_files, git, has_git, uncommitted_files
from pipeline.repository.tracking import TrackedFolder, hold_folder


class Request(NamedTuple):
    paths: list[str]
    label: str | None  # the class of the image files; None for a folder of classes
    batch: str | None  # its name; None for one that no other clone gives
    keep_going: bool  # add what has no fault
    commit: bool  # the batch, and those that no commit has yet


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
        left = uncommitted_records() if request.commit else []
        if left and batches.has_remote:
            batches.push(left)
        new = [track(request, additions, batches)] if additions.new else []
        if request.commit and (new or left):
            print("pushed to DVC's remote\n" * batches.has_remote, end="")
            commit(additions, new, left)
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


def track(request: Request, additions: Additions, batches: TrackedFolder) -> Path:
    """Make the stored images a batch, say how to keep it, and return its record."""
    batch = request.batch or f"{date.today()}-{additions.digest[:6]}"
    if batches.holds(batch):
        raise ParamsError(f"{OWN / batch} is there already; choose another name: --batch")
    (batches.scratch / "new").rename(batches.scratch / batch)
    has_remote = batches.has_remote
    batches.add(batch, push=request.commit and has_remote)
    record = OWN / f"{batch}.dvc"
    print(f"added {name_images(additions)}: {additions.classes}, in {OWN / batch}")
    pushes = [f"dvc push {record}"] * has_remote
    commits = to_commit([record], f"Add {name_images(additions)}") * has_git(Path.cwd())
    if not request.commit and (pushes or commits):
        print("to keep them:", *pushes, *commits, sep="\n  ")
    return record


def name_images(additions: Additions) -> str:
    return f"{additions.count:,} image{'s' * (additions.count != 1)}"


def to_commit(records: Sequence[Path], title: str) -> list[str]:
    """Return the commands that commit records of batches."""
    names = shlex.join(map(str, records))
    return [f"git add {names}", f"git commit --message {shlex.quote(title)} {names}"]


def uncommitted_records() -> list[Path]:
    """Return the records of batches that differ from the last commit, or that a kill left."""
    return [path for path in uncommitted_files(Path.cwd(), OWN) if path.suffix == ".dvc"]


def commit(additions: Additions, new: Sequence[Path], left: Sequence[Path]) -> None:
    """Commit the new batch's record, and those left uncommitted, on the current branch.

    Then tell Prefect.
    """
    from pipeline.orchestration.events import announce_data  # takes longer than all else here

    root, records = Path.cwd(), [*new, *left]
    names = ", ".join(record.stem for record in records)
    title = f"Add {name_images(additions)}" if new else f"Add {names}"
    lines = [f"{additions.classes}, in {record.with_suffix('')}" for record in new]
    lines += [f"Not committed before: {record}" for record in left]
    try:
        made = commit_files(root, records, "\n".join([title, "", *lines, ""]))
    except GitError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        later = " && ".join(to_commit(records, title))
        raise PipelineError(f"they are not committed: {reason}; do it later: {later}") from error
    branch = git(root, "branch", "--show-current") or "no branch; git switch --create NAME keeps it"
    print(f"committed {made[:7]} on {branch}")
    for record in left:
        print(f"not committed before, and in this commit: {record}")
    if announce_data(root, names, additions.count + sum(map(count_files, left))):
        print("told Prefect's server, which retrains if a deployment waits for data")


def count_files(record: Path) -> int:
    outs = parse_yaml(record.read_bytes(), str(record))["outs"]
    return sum(out.get("nfiles", 1) for out in outs)
