"""A command more for DVC: `dvc rehearse` says what `dvc repro` would do to each stage.

It takes the targets of `dvc repro` and prints JSON: for each stage that DVC came to, what it did in
a copy of the workspace, and why if it refused. DVC itself decides. dvc_program.py adds the command;
this file imports nothing of the package.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from configobj import ConfigObj
from dvc.cli.command import CmdBase
from dvc.dvcfile import LOCK_FILE, is_valid_filename
from dvc.exceptions import ReproductionError
from dvc.ignore import DvcIgnore
from dvc.logger import set_loggers_level
from dvc.output import Output
from dvc.repo import Repo, lock_repo
from dvc.stage import Stage
from dvc.stage.exceptions import StageCmdFailedError


class CmdRehearse(CmdBase):  # type: ignore[misc]  # DVC has no types
    """`dvc rehearse --scratch FOLDER [--all-pipelines] [TARGET …]`"""

    def run(self) -> int:
        with lock_repo(self.repo):
            folder = WorkspaceCopy(self.repo, Path(self.args.scratch)).build()
        os.chdir(folder)
        print(json.dumps(rehearse(self.args.targets, self.args.all_pipelines)))
        return 0


def add_parser(subparsers: Any, parent_parser: Any) -> None:
    """Add the command; DVC calls this as it does for its own."""
    parser = subparsers.add_parser("rehearse", parents=[parent_parser])
    parser.add_argument("-P", "--all-pipelines", action="store_true")
    parser.add_argument("--scratch", required=True)
    parser.add_argument("targets", nargs="*")
    parser.set_defaults(func=CmdRehearse)


class WorkspaceCopy:
    """A copy of a workspace, of links, in which DVC may do what it likes.

    It lies at its own absolute path below `scratch`, so relative paths lead to the same places.
    DVC writes its own files, and replaces outputs; so its files are copied, and the folders on the
    way to them and to all that it tracks are real. The rest is links, to whole folders if possible.
    """

    def __init__(self, repo: Repo, scratch: Path) -> None:
        self.repo, self.scratch = repo, scratch
        stages = repo.index.stages
        items = [item for stage in stages for item in [*stage.deps, *stage.outs]]
        local = [item for item in items if item.protocol == "local"]
        self.tracked = {Path(item.fs_path) for item in local}
        relative = [item for item in local if not Path(item.def_path).is_absolute()]
        self.relative = {Path(item.fs_path) for item in relative}
        folders = {Path(stage.wdir) for stage in stages}
        files = {Path(stage.path) for stage in stages}
        self.real_folders = folders.union(
            *(path.parents for path in self.tracked | files | folders)
        )

    def build(self) -> Path:
        """Return the copy of the current folder."""
        root = Path(self.repo.root_dir)
        links = list(self.fill(root))
        for path in self.relative:
            if path.exists() and not self.to_copy(path).exists():  # outside of the workspace
                self.to_copy(path).parent.mkdir(parents=True, exist_ok=True)
                self.to_copy(path).symlink_to(path)
                links.append(path)
        self.configure(self.to_copy(root) / ".dvc")
        self.copy_hashes(links)
        return self.to_copy(Path.cwd())

    def to_copy(self, path: Path) -> Path:
        return self.scratch / path.relative_to("/")

    def fill(self, folder: Path, *, is_tracked: bool = False) -> Iterator[Path]:
        """Fill the copy of a folder; yield what DVC tracks of it and is a link in the copy."""
        self.to_copy(folder).mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            below = is_tracked or path in self.tracked
            # DVC does not follow links to folders when it looks for the files of a folder.
            is_real = path in self.real_folders or (is_tracked and not path.is_symlink())
            if path.name in (".git", ".dvc"):
                continue
            if is_real and path.is_dir():
                yield from self.fill(path, is_tracked=below)
            elif path.name in (LOCK_FILE, DvcIgnore.DVCIGNORE_FILE):
                shutil.copyfile(path, self.to_copy(path))
            elif is_valid_filename(path.name):
                if not self.repo.scm.is_ignored(str(path)):  # or else DVC does not see it
                    shutil.copyfile(path, self.to_copy(path))
            else:
                self.to_copy(path).symlink_to(path)
                if below:
                    yield path

    def configure(self, folder: Path) -> None:
        """Give the copy the configuration of the workspace, but no Git."""
        folder.mkdir()
        for name in ("config", "config.local"):
            with suppress(FileNotFoundError):
                shutil.copy(Path(self.repo.dvc_dir) / name, folder)
        # DVC's own way to edit it fails for a path with an é.
        local = ConfigObj(str(folder / "config.local"), encoding="utf-8")
        local.setdefault("core", {}).update(
            {
                "no_scm": "true",
                "autostage": "false",
                "analytics": "false",
                "site_cache_dir": str(self.scratch / "site"),
            }
        )
        links = {"dir": self.repo.cache.local_cache_dir, "type": "symlink"}
        local.setdefault("cache", {}).update(links)
        local.write()

    def copy_hashes(self, links: Iterable[Path]) -> None:
        """Tell DVC the hashes of the links, so that it does not read all files again."""
        fs = self.repo.fs
        find = self.repo.dvcignore.find
        paths: list[str] = []
        for link in links:
            paths += find(fs, str(link)) if link.is_dir() else [str(link)]
        known = self.repo.state.get_many(paths, fs, {})
        with Repo(str(self.to_copy(Path(self.repo.root_dir)))) as copy:
            copy.state.save_many(
                ((str(self.to_copy(Path(path))), found, None) for path, _, found in known if found),
                copy.fs,
            )


def rehearse(targets: list[str], all_pipelines: bool) -> dict[str, list[str]]:
    """Let DVC reproduce the workspace in the current folder, where every command must fail.

    What the run cache has is restored, so what comes after it is decided too. `dvc repro --dry`
    cannot tell: it compares with dvc.lock alone. Nothing goes to the cache, and outputs outside of
    the folder are not removed.

    Returns what DVC did to each stage, and why if it refused.
    """
    outcomes: dict[str, list[str]] = {}

    def reproduce(stage: Stage, **options: Any) -> Stage | None:
        try:
            done = stage.reproduce(**options)
            if done:
                stage.dump(update_pipeline=False)
        except StageCmdFailedError:
            outcomes[stage.addressing] = ["run", ""]
            raise
        except Exception as error:
            outcomes[stage.addressing] = ["fail", str(error)]
            raise
        outcomes[stage.addressing] = [name_outcome(stage, done), ""]
        return stage if done else None

    quietly = set_loggers_level(logging.CRITICAL)
    options = {"all_pipelines": all_pipelines, "on_error": "keep-going", "no_commit": True}
    with removing_links_only(), quietly, suppress(ReproductionError), Repo() as repo:
        repo.reproduce(targets or None, repro_fn=reproduce, **options)
    return outcomes


@contextmanager
def removing_links_only() -> Iterator[None]:
    """Let DVC remove an output only if it is in the copy; a linked folder stays where it is."""
    original = Output.remove, Output.unprotect

    def remove(out: Output, *arguments: Any, **options: Any) -> None:
        path = Path(out.fs_path) if out.is_in_repo else None
        if path and path.is_symlink():
            path.unlink()
        elif path:
            original[0](out, *arguments, **options)

    Output.remove, Output.unprotect = remove, lambda out: None
    try:
        yield
    finally:
        Output.remove, Output.unprotect = original


def name_outcome(stage: Stage, done: Stage | None) -> str:
    if not done:
        return "skip"
    if stage.frozen or not (stage.cmd or stage.is_import):
        return "record"
    return "restore" if stage.cmd else "run"
