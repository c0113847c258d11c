"""Imported data in a worktree, brought up to date from where they were imported.

They are what `dvc import-url` took from a folder or bucket, or `dvc import` from a repository. A
source that is away costs no run: its last state is used, the champion's if that is newer.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.release.tags import SOURCE_TRAILER, read_trailer
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.git import read_file

Log = Callable[..., object]


@dataclass(frozen=True)
class ImportUpdate:
    """What it takes to update the imports of a worktree: `update(dvc, info, warning)`."""

    root: Path  # the checkout; relative sources are relative to it
    commit: str  # of the worktree
    champion: str | None  # the commit of its branch

    def __call__(self, dvc: DvcWorker, info: Log, warning: Log) -> None:
        """Update each import that the graph needs; log what changed and what could not be."""
        output = dvc.run("update-imports", "--home", str(self.root))
        reasons: dict[str, str] = json.loads(output.splitlines()[-1])
        for name, reason in reasons.items():
            if not reason:
                info("%s: new data", name)
                continue
            warning("%s is not updated, its last state is used: %s", name, reason)
            if newer := self.find_newer(name):
                (dvc.root / name).write_text(f"{newer}\n", encoding="utf-8")

    def find_newer(self, name: str) -> str | None:
        """Return the champion's .dvc file, if the commit has the one that the champion updated."""
        champion = self.champion
        if not champion or not (source := read_trailer(self.root, champion, SOURCE_TRAILER)):
            return None
        now, then = (read_file(self.root, commit, name) for commit in (self.commit, source))
        return read_file(self.root, champion, name) if now == then else None
