"""Imported data in a worktree: the newest that are known, or that their sources have now.

They are what `dvc import-url` took from a folder or bucket, or `dvc import` from a repository. The
newest .dvc file of one is often the champion's alone: a retraining publishes what it took there,
and leaves the branches of people as they are. A source that is away costs no run.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.params import parse_yaml
from pipeline.release.tags import SOURCE_TRAILER, read_trailer
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.git import GitError, git, read_file

Log = Callable[..., object]


@dataclass(frozen=True)
class ImportUpdate:
    """What it takes to update the imports of a worktree: `update(dvc, info, warning)`."""

    newer: Mapping[str, str]  # .dvc files, of `find_newer`
    home: Path | None = None  # sources are asked, a relative one from here; None: they are not

    def __call__(self, dvc: DvcWorker, info: Log, warning: Log) -> None:
        """Update each import that the graph needs; log what changed and what could not be."""
        paths = {name: dvc.root / name for name in self.newer}
        before = {name: path.read_bytes() for name, path in paths.items()}
        for name, path in paths.items():
            path.write_text(f"{self.newer[name]}\n", encoding="utf-8")
        reasons = self.ask_sources(dvc)
        for name, reason in reasons.items():
            if reason:
                warning("%s is not updated, its last state is used: %s", name, reason)
            else:
                info("%s: new data", name)
        for name in self.newer:
            if reasons.get(name) == "":
                continue
            if has_data(dvc, name):
                info("%s: the champion's, which is newer", name)
            else:
                paths[name].write_bytes(before[name])
                warning("%s: the champion's newer data are gone; the commit's are used", name)

    def ask_sources(self, dvc: DvcWorker) -> dict[str, str]:
        """Take what the sources have; return the imports that changed, or why they could not."""
        if not self.home:
            return {}
        output = dvc.run("update-imports", "--home", str(self.home))
        reasons: dict[str, str] = json.loads(output.splitlines()[-1])
        return reasons


def find_newer(root: Path, commit: str, champion: str | None) -> dict[str, str]:
    """Return the .dvc files of imports that the champion has newer than the commit.

    It has, if it has updated the very file that the commit has. Whoever has changed that since has
    decided what it is.
    """
    if not champion or not (source := read_trailer(root, champion, SOURCE_TRAILER)):
        return {}
    try:
        changed = git(root, "diff", "-z", "--name-only", "--relative", source, champion)
    except GitError:  # a shallow clone lacks the source
        return {}
    newer = {}
    for name in changed.split("\0"):
        if not name.endswith(".dvc"):
            continue
        now, then, new = (read_file(root, of, name) for of in (commit, source, champion))
        if new and now and now == then and "deps" in (parse_yaml(new, name) or {}):
            newer[name] = new
    return newer


def has_data(dvc: DvcWorker, name: str) -> bool:
    """Whether the data of an import are here or in the cache, if need be from DVC's remote."""

    def is_here() -> bool:
        described = json.loads(dvc.run("describe", name))
        return all(place == "cache" for stage in described for place in stage["missing"].values())

    if is_here():
        return True
    dvc.request("fetch", "--quiet", name)
    return is_here()
