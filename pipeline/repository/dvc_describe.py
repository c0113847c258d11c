"""A command more for DVC: `dvc describe` says what a plan and a run must know of each stage.

It takes the targets of `dvc repro` and prints JSON, a list of the stages that repro would go
through. DVC's own objects are asked, so that every rule is DVC's. dvc_program.py adds the command;
this file imports nothing of the package.
"""

import json
from collections.abc import Iterable
from typing import Any

from dvc.cli.command import CmdBase
from dvc.dependency.param import ParamsDependency
from dvc.dvcfile import PROJECT_FILE
from dvc.exceptions import DvcException
from dvc.output import Output
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.stage import Stage
from dvc.stage.exceptions import StageFileDoesNotExistError, StageNotFound


class CmdDescribe(CmdBase):  # type: ignore[misc]  # DVC has no types
    """`dvc describe [--all-pipelines] [TARGET …]`"""

    def run(self) -> int:
        with lock_repo(self.repo):
            steps = find_steps(self.repo, self.args.targets, self.args.all_pipelines)
            graph = get_active_graph(self.repo.index.graph)
            described = [describe(stage, list(graph.successors(stage))) for stage in steps]
        print(json.dumps(described, default=str))
        return 0


def add_parser(subparsers: Any, parent_parser: Any) -> None:
    """Add the command; DVC calls this as it does for its own."""
    parser = subparsers.add_parser("describe", parents=[parent_parser])
    parser.add_argument("-P", "--all-pipelines", action="store_true")
    parser.add_argument("targets", nargs="*")
    parser.set_defaults(func=CmdDescribe)


def find_steps(repo: Repo, targets: list[str], all_pipelines: bool) -> list[Stage]:
    """Return the stages that `dvc repro` goes through, in its order."""
    try:
        stages = None if all_pipelines else collect_stages(repo, targets or [PROJECT_FILE])
    except (StageNotFound, StageFileDoesNotExistError) as error:
        names = ", ".join(stage.addressing for stage in repo.index.stages)
        raise DvcException(f"{error}; there are: {names}") from None
    steps: list[Stage] = plan_repro(get_active_graph(repo.index.graph), stages)
    return steps


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
        "missing": dict(find_missing(stage, needed)),
    }


def find_missing(stage: Stage, needed: Iterable[Stage]) -> Iterable[tuple[str, str]]:
    """Yield what is missing that no command makes, and where it is.

    Without it DVC refuses the stage.
    """
    if stage.frozen or not stage.cmd:
        yield from ((str(out), find_data(out)) for out in stage.outs if not out.exists)
        return
    made = [out.fs_path for other in needed for out in other.outs]
    for dep in stage.deps:
        isin_or_eq = dep.fs.isin_or_eq
        if not (
            dep.protocol != "local"
            or dep.exists
            or any(isin_or_eq(dep.fs_path, out) or isin_or_eq(out, dep.fs_path) for out in made)
        ):
            yield str(dep), "untracked"


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
