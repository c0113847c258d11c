"""A command more for DVC: `dvc update-imports` is `dvc update` of all imports that a graph needs.

It takes no targets and prints JSON: each import that changed or could not be updated, and the
reason, empty if it changed. One that fails keeps its last state and does not stop the others.
dvc_program.py adds the command; this file imports nothing of the package.
"""

import json
import os
from contextlib import chdir
from pathlib import Path
from typing import Any

from dvc.cli.command import CmdBase
from dvc.dvcfile import PROJECT_FILE
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.stage import Stage


class CmdUpdateImports(CmdBase):  # type: ignore[misc]  # DVC has no types
    """`dvc update-imports --home FOLDER`"""

    def run(self) -> int:
        with lock_repo(self.repo):
            imports = [stage for stage in find_steps(self.repo) if stage.is_import]
            reasons = {stage.addressing: update(stage, self.args.home) for stage in imports}
        print(json.dumps({name: reason for name, reason in reasons.items() if reason is not None}))
        return 0


def add_parser(subparsers: Any, parent_parser: Any) -> None:
    """Add the command; DVC calls this as it does for its own."""
    parser = subparsers.add_parser("update-imports", parents=[parent_parser])
    parser.add_argument("--home", type=Path, required=True)
    parser.set_defaults(func=CmdUpdateImports)


def find_steps(repo: Repo) -> list[Stage]:
    """Return what the folder's dvc.yaml needs, in the order of `dvc repro`."""
    stages = collect_stages(repo, [PROJECT_FILE])
    steps: list[Stage] = plan_repro(get_active_graph(repo.index.graph), stages)
    return steps


def describe(error: BaseException) -> str:
    """Return what went wrong and its cause, in a line; an error may say nothing itself."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text}: {describe(error.__cause__)}" if error.__cause__ else text


def update(stage: Stage, home: Path) -> str | None:
    """Update an import as if the workspace lay at `home`; return the reason if that fails.

    Returns an empty text if it has changed, None if there was nothing new.
    """
    (dep,), before = stage.deps, Path(stage.path).read_bytes()
    if dep.protocol == "local" and not stage.is_repo_import:
        wdir = Path(stage.wdir).relative_to(stage.repo.root_dir)
        dep.fs_path = os.path.normpath(home / wdir / dep.def_path)
    try:
        with chdir(home):  # where DVC looks for a repository that is named by a relative path
            stage.update()
        stage.dump()
    except Exception as error:  # whatever the library of the source's kind raises
        for out in stage.outs:
            out.remove()  # what has come of it
        return describe(error)
    return "" if Path(stage.path).read_bytes() != before else None
