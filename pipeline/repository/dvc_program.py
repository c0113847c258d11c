"""A DVC process that answers one request after the other: dvc_program.py

A request is a line of JSON on standard input:
    arguments    of `dvc`
    environment  variables set while it is answered
    separate     whether errors are kept apart from the output
    token        ends the answer
The answer is what DVC, and the stage it runs, print; then the token and a line of JSON with `code`
and `errors`. DVC takes longer to start than to answer, so one process answers many requests.

Two commands are added to DVC's, which print JSON and take the targets of `dvc repro`:
    dvc describe             the stages that repro would look at, and what has changed for each
    dvc rehearse             what repro would do to each, found out in a copy of the workspace
Both ask DVC's own objects, so every rule is DVC's.

dvc_worker.py starts it by its path; it imports nothing of the package.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dvc.cli import main, parser
from dvc.cli.command import CmdBase
from dvc.config import Config
from dvc.dependency.param import ParamsDependency
from dvc.dvcfile import LOCK_FILE, PROJECT_FILE, is_valid_filename
from dvc.exceptions import DvcException, ReproductionError
from dvc.output import Output
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.stage import Stage
from dvc.stage.exceptions import StageCmdFailedError, StageFileDoesNotExistError, StageNotFound

INTERRUPTED = 252  # DVC's exit code after Ctrl-C


class CmdDescribe(CmdBase):  # type: ignore[misc]  # DVC has no types
    """`dvc describe [--all-pipelines] [TARGET …]`"""

    def run(self) -> int:
        with lock_repo(self.repo):
            steps = find_steps(self.repo, self.args.targets, self.args.all_pipelines)
            graph = get_active_graph(self.repo.index.graph)
            described = [describe(stage, graph.successors(stage)) for stage in steps]
        print(json.dumps(described, default=str))
        return 0


class CmdRehearse(CmdBase):  # type: ignore[misc]
    """`dvc rehearse --scratch FOLDER [--all-pipelines] [TARGET …]`"""

    def run(self) -> int:
        with lock_repo(self.repo):
            folder = copy_workspace(self.repo, Path(self.args.scratch))
        os.chdir(folder)
        print(json.dumps(rehearse(self.args.targets, self.args.all_pipelines)))
        return 0


def add_parser(subparsers: Any, parent_parser: Any) -> None:
    """Add the commands; DVC calls this as it does for its own."""
    for name, command in {"describe": CmdDescribe, "rehearse": CmdRehearse}.items():
        added = subparsers.add_parser(name, parents=[parent_parser])
        added.add_argument("-P", "--all-pipelines", action="store_true")
        if command is CmdRehearse:
            added.add_argument("--scratch", required=True)
        added.add_argument("targets", nargs="*")
        added.set_defaults(func=command)


def find_steps(repo: Repo, targets: list[str], all_pipelines: bool) -> list[Stage]:
    """Return the stages that `dvc repro` goes through, in its order."""
    try:
        stages = None if all_pipelines else collect_stages(repo, targets or [PROJECT_FILE])
    except (StageNotFound, StageFileDoesNotExistError) as error:
        names = ", ".join(stage.addressing for stage in repo.index.stages)
        raise DvcException(f"{error}; there are: {names}") from None
    return plan_repro(get_active_graph(repo.index.graph), stages)  # type: ignore[no-any-return]


def describe(stage: Stage, needed: Iterable[Stage]) -> dict[str, Any]:
    """Return what a plan and a run must know of a stage; the fields of graph.py's Stage."""
    (changes,) = stage.status(check_updates=False).values() or ([],)
    return {
        "name": stage.addressing,
        "needs": sorted(other.addressing for other in needed),
        "file": stage.relpath,
        "runs": bool(stage.cmd) and not stage.frozen,
        "is_frozen": stage.frozen and not stage.is_import,
        "is_locked": any(item.hash_info for item in [*stage.deps, *stage.outs]),
        "meta": stage.meta or {},
        "has_metrics": any(out.metric for out in stage.outs),
        "outs": {str(out): out.hash_info.value for out in stage.outs},
        "changes": changes,
        "params": dict(changed_params(stage)),
        "missing": {
            str(out): find_data(out)
            for out in stage.outs
            if not (out.exists or (stage.cmd and not stage.frozen))
        },
    }


def changed_params(stage: Stage) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    """Yield each file with changed parameters: their recorded and their present values."""
    for dep in [] if stage.frozen else stage.deps:
        for file, changed in dep.status().items() if isinstance(dep, ParamsDependency) else ():
            if isinstance(changed, dict):  # or else the file is new or deleted
                values = (dep.hash_info.value, dep.read_params())
                yield file, [{n: v for n, v in of.items() if n in changed} for of in values]


def find_data(out: Output) -> str:
    """Say where the data of an output is that the workspace lacks."""
    if not out.hash_info:
        return "nowhere"
    if not out.changed_cache():
        return "cache"
    if out.stage.is_import:
        return "source"
    try:
        remote = out.repo.cloud.get_remote_odb(hash_name=out.hash_name)
        return "remote" if remote.exists(out.hash_info.value) else "nowhere"
    except DvcException:  # there is no remote
        return "nowhere"
    except Exception:  # whatever the library of the remote's kind raises
        return "unknown"


def copy_workspace(repo: Repo, scratch: Path) -> Path:
    """Build a copy of the workspace, of links; return the current folder's copy.

    It lies at its own absolute path below `scratch`, so relative paths lead to the same places.
    DVC writes its own files and outputs, so those, and all folders on the way to them, are real;
    an output's files are links, which DVC replaces and never writes into.
    """
    root = Path(repo.root_dir)
    items = [item for stage in repo.index.stages for item in [*stage.deps, *stage.outs]]
    local = [item for item in items if item.protocol == "local"]
    tracked = {Path(item.fs_path) for item in local}
    own = {Path(stage.path) for stage in repo.index.stages}
    own |= {path.with_name(LOCK_FILE) for path in own}
    on_the_way = {parent for path in tracked | own for parent in path.parents}
    links: dict[str, str] = {}

    def fill(folder: Path, is_tracked: bool) -> None:
        copy = to_copy(folder)
        copy.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            below = is_tracked or path in tracked
            is_real = path in tracked | on_the_way or (is_tracked and not path.is_symlink())
            if path.name in (".git", ".dvc"):
                continue
            if is_real and path.is_dir():
                fill(path, below)
            elif path in own or path.name == ".dvcignore":
                shutil.copyfile(path, copy / path.name)
            elif not is_valid_filename(path.name):  # or else Git ignores a file of DVC, and so DVC
                (copy / path.name).symlink_to(path)
                if below and path.is_file():
                    links[str(path)] = str(copy / path.name)

    def to_copy(path: Path) -> Path:
        return scratch / path.relative_to("/")

    fill(root, False)
    for item in local:
        path = Path(item.fs_path)
        if (
            not path.is_relative_to(root)
            and not Path(item.def_path).is_absolute()
            and path.exists()
        ):
            to_copy(path).parent.mkdir(parents=True, exist_ok=True)
            if not to_copy(path).exists():
                to_copy(path).symlink_to(path)
    configure_copy(repo, to_copy(root), scratch)
    with Repo(str(to_copy(root))) as copied:
        found = repo.state.get_many(list(links), repo.fs, {})
        hashes = [(links[path], hash_info, None) for path, _, hash_info in found if hash_info]
        copied.state.save_many(hashes, copied.fs)  # or else DVC would read all files again
    return to_copy(Path.cwd())


def configure_copy(repo: Repo, copy: Path, scratch: Path) -> None:
    """Give the copy the configuration of the workspace, but no Git and nothing to write to."""
    (copy / ".dvc").mkdir()
    for name in ("config", "config.local"):
        with suppress(FileNotFoundError):
            shutil.copy(Path(repo.dvc_dir) / name, copy / ".dvc")
    with Config(str(copy / ".dvc")).edit("local") as local:
        local["core"] |= {
            "no_scm": True,
            "autostage": False,
            "analytics": False,
            "site_cache_dir": str(scratch / "site"),
        }
        local["cache"] |= {"dir": repo.cache.local_cache_dir, "type": "symlink"}


def rehearse(targets: list[str], all_pipelines: bool) -> dict[str, list[str]]:
    """Let DVC reproduce the workspace in the current folder, where every command must fail.

    What the run cache has is restored, so what comes after it is decided too. `dvc repro --dry`
    cannot tell: it compares with dvc.lock alone. Nothing goes to the cache, and outputs outside of
    the folder are not removed.

    Returns what DVC did to each stage, and why if it refused.
    """
    outcomes: dict[str, list[str]] = {}
    remove_output = Output.remove

    def remove(out: Output, *arguments: Any, **options: Any) -> None:
        if out.is_in_repo:
            remove_output(out, *arguments, **options)

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

    Output.remove = remove
    try:
        with Repo() as repo, suppress(ReproductionError):
            repo.reproduce(
                targets or None,
                all_pipelines=all_pipelines,
                on_error="keep-going",
                no_commit=True,
                repro_fn=reproduce,
            )
    finally:
        Output.remove = remove_output
    return outcomes


def name_outcome(stage: Stage, done: Stage | None) -> str:
    if not done:
        return "skip"
    if stage.frozen or not (stage.cmd or stage.is_import):
        return "record"
    return "restore" if stage.cmd else "run"


def answer(request: dict[str, Any]) -> int:
    """Run one `dvc` command and write its answer; return its exit code."""
    root, variables = Path.cwd(), dict(os.environ)
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as errors:
        if request["separate"]:
            os.dup2(errors.fileno(), 2)
        os.environ |= request["environment"]
        try:
            code: int = main(["--wait-for-lock", *request["arguments"]])
        finally:
            os.chdir(root)  # --cd changes it
            os.environ.clear()
            os.environ |= variables
            sys.stderr.flush()
            os.dup2(standard_error, 2)
            os.close(standard_error)
        errors.seek(0)
        end = {"code": code, "errors": errors.read().decode(errors="replace")}
    print(request["token"] + json.dumps(end), flush=True)
    return code


if __name__ == "__main__":
    parser.COMMANDS.append(sys.modules[__name__])
    # A stage inherits standard input: it must not find the requests there.
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        for line in requests:
            if answer(json.loads(line)) == INTERRUPTED:
                break
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
