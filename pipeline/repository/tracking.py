"""A folder of batches that DVC tracks, each added once, whole or not at all.

    FOLDER/BATCH       the data, which Git ignores
    FOLDER/BATCH.dvc   DVC's record of them, in Git

A batch is built in a scratch folder next to FOLDER. That is a DVC workspace of its own with the
cache of this one, so that DVC puts the whole batch into the cache before anything is seen here.
Then the record and the data are moved into place (dvc_place.py). What a kill leaves between these
two moves, the next use of the folder completes from the cache.
"""

import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from pipeline.errors import PipelineError
from pipeline.repository.dvc_files import configure_dvc, has_remote
from pipeline.repository.dvc_output import BusyError, command_error
from pipeline.repository.dvc_worker import DvcWorker

BUSY_POLL = 0.5  # seconds between attempts while another process is at work
Result = TypeVar("Result")


class TrackedFolder:
    """A folder of batches that no other process adds to; see `hold_folder`."""

    def __init__(
        self, folder: Path, scratch: Path, dvc: DvcWorker, say: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self.scratch = scratch  # where a new batch is built, under its name
        self._dvc, self._say = dvc, say

    @property
    def has_remote(self) -> bool:
        return has_remote(self.scratch)

    def holds(self, batch: str) -> bool:
        return any((self.folder / name).exists() for name in (batch, f"{batch}.dvc"))

    def complete(self) -> None:
        """Check out each batch whose data are missing here, if the cache has all of them."""
        for record in sorted(self.folder.glob("*.dvc")):
            batch = record.stem
            if not (self.folder / batch).exists():
                shutil.copyfile(record, self.scratch / record.name)
                if self._ask("checkout", "--quiet", record.name) is None:
                    self._place(batch)
                    self._say(f"checked out {batch} from DVC's cache")

    def add(self, batch: str, *, push: bool) -> None:
        """Have DVC track what is in `scratch` under the batch's name, and move it into place.

        With `push`, DVC's default remote has the data before. Raises PipelineError, and then
        nothing is added.
        """
        requests = [("add", batch), *[("push", f"{batch}.dvc")] * push]
        for request in requests:
            if error := self._ask(*request):
                raise PipelineError(f"{error}; nothing is added")
        self._place(batch)

    def push(self, records: Sequence[Path]) -> None:
        """Push batches that are here to DVC's default remote. Raises PipelineError."""
        arguments = ("push", *map(str, records))
        answer = self._dvc.request(*arguments)
        if answer.code:
            error = command_error(("dvc", *arguments), answer.errors)
            raise PipelineError(f"{error}; nothing is added, and nothing committed")

    def _ask(self, *arguments: str) -> PipelineError | None:
        """Run `dvc ARGUMENTS` in the scratch folder; return why DVC refused."""
        answer = self._dvc.request("--cd", str(self.scratch), *arguments)
        return command_error(("dvc", *arguments), answer.errors) if answer.code else None

    def _place(self, batch: str) -> None:
        paths = [
            str((folder / batch).relative_to(self._dvc.root))
            for folder in (self.scratch, self.folder)
        ]
        wait_while_busy(lambda: self._dvc.run("place", *paths), self._say)


@contextmanager
def hold_folder(root: Path, folder: Path, say: Callable[[str], None]) -> Iterator[TrackedFolder]:
    """Yield a folder below `root` once no other process adds to it; `say` why it has to wait."""
    home = find_dvc_home(root)
    with (
        hold_lock(home / ".dvc" / "tmp" / "add.lock", say),
        scratch_folder(root / folder) as scratch,
        DvcWorker(root) as dvc,
    ):
        configure_dvc(scratch, scratch, inherit=home, is_worktree=False)
        yield TrackedFolder(root / folder, scratch, dvc, say)


def find_dvc_home(root: Path) -> Path:
    """Return the folder of the DVC repository that `root` belongs to."""
    for folder in (root, *root.parents):
        if (folder / ".dvc").is_dir():
            return folder
    raise PipelineError(f"{root} is in no DVC repository; go to one, or make it one: dvc init")


@contextmanager
def hold_lock(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)

    def take() -> None:
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise BusyError("another process that adds data here") from error

    wait_while_busy(take, say)
    try:
        yield
    finally:
        lock.release()


def wait_while_busy(work: Callable[[], Result], say: Callable[[str], None]) -> Result:
    """Do `work`, again and again while it raises BusyError; `say` once for whom it waits."""
    announced = ""
    while True:
        try:
            return work()
        except BusyError as error:
            if str(error) != announced:
                announced = str(error)
                say(f"waiting for {announced}")
        time.sleep(BUSY_POLL)


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder next to `folder`; remove it afterwards, and those that kills left."""
    pattern = f".{folder.name}-{{}}.partial"
    for left in folder.parent.glob(pattern.format("*")):
        discard(left)
    scratch = folder.with_name(pattern.format(secrets.token_hex(4)))
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        discard(scratch)


def discard(scratch: Path) -> None:
    """Remove a scratch folder.

    It gets another name first: the DVC process of a killed run may still be about to move files
    from it, and is to find all of them or none.
    """
    doomed = scratch.with_stem(f"{scratch.stem}-{secrets.token_hex(4)}")
    scratch.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
