"""What `dvc repro` would do to each stage, and why."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.repository.dvc_files import LOCK, flatten, read_yaml
from pipeline.repository.dvc_worker import DvcWorker, Outcome, command_error, parse_outcomes
from pipeline.repository.graph import Graph, WorkspaceStatus
from pipeline.repository.processes import subprocess_environment


class Action(StrEnum):
    RUN = "run"
    RESTORE = "restore"  # from the run cache
    SKIP = "skip"
    FOLLOW = "follow"  # known once a stage before it has run


@dataclass(frozen=True)
class PlannedStage:
    stage: str
    action: Action
    reasons: tuple[str, ...]


def plan(dvc: DvcWorker, graph: Graph, view: WorkspaceStatus) -> list[PlannedStage]:
    """Say of every stage of `graph` what `dvc repro` would do, and why; nothing runs and nothing
    changes.
    """
    root, stale = dvc.root, view.stale
    if not stale:
        return [PlannedStage(stage, Action.SKIP, ("unchanged",)) for stage in graph]
    locked = read_yaml(root / LOCK).get("stages", {})
    said, relocked = dry_run(dvc, view.cache)
    steps: dict[str, PlannedStage] = {}
    for stage, before in graph.items():
        reasons = describe_changes(root, stale.get(stage, []), locked.get(stage))
        acting = [
            name for name in steps if name in before and steps[name].action is not Action.SKIP
        ]
        if said.get(stage) is Outcome.RAN:
            action = Action.RUN
        elif stage in said:
            is_touched = relocked.get(stage) != locked.get(stage) or has_changed_outs(
                stale.get(stage, [])
            )
            action = Action.RESTORE if is_touched else Action.SKIP
        else:
            action = Action.FOLLOW if acting else Action.RUN
        if action is not Action.SKIP:
            reasons += [f"follows {', '.join(acting)}"] * bool(acting)
        steps[stage] = PlannedStage(stage, action, tuple(reasons) or ("unchanged",))
    return list(steps.values())


def dry_run(dvc: DvcWorker, cache: Path) -> tuple[dict[str, Outcome], dict[str, Any]]:
    """Let DVC reproduce a copy of the workspace in which every command fails; return what it said
    and its lock.

    What comes from the run cache does, as links, so that the stages after it are decided too. A dry
    run can't tell: it compares with dvc.lock alone.
    """
    root, command = (
        dvc.root,
        ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"),
    )
    listed = subprocess.run(
        command, cwd=root, env=subprocess_environment(), capture_output=True, text=True
    )
    if listed.returncode:
        raise command_error(command, listed.stderr)
    with tempfile.TemporaryDirectory(prefix="plan-") as name:
        copy = Path(name)
        for path in filter(
            lambda path: path and (root / path).is_file(), listed.stdout.split("\0")
        ):
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, copy / path)
        (copy / ".dvc" / "config.local").write_text(
            f"[core]\nno_scm = true\nautostage = false\nsite_cache_dir = '{copy / 'site'}'\n"
            f"[cache]\ndir = '{cache}'\ntype = symlink\n",
            encoding="utf-8",
        )
        _, said, _ = dvc.request("--cd", name, "repro", "--keep-going")
        return dict(parse_outcomes(said)), read_yaml(copy / LOCK).get("stages", {})


def describe_changes(
    root: Path, changes: Iterable[Any], locked: Mapping[str, Any] | None
) -> list[str]:
    """Put DVC's status of one stage into words, parameters with their values in dvc.lock
    and now.
    """
    if locked is None:
        return ["not in dvc.lock yet"]
    reasons: list[str] = []
    for change in changes:
        if isinstance(change, str):
            reasons.append(change)
            continue
        for path, how in (item for files in change.values() for item in files.items()):
            if isinstance(how, str):
                reasons.append(f"{path} {how}")
            else:
                old, new = (
                    flatten(locked.get("params", {}).get(path, {})),
                    flatten(read_yaml(root / path)),
                )
                reasons += [
                    f"{path} {name} {old.get(name, 'unset')} → {new.get(name, 'unset')}"
                    for name in sorted(old.keys() | new.keys())
                    if covers(how, name) and old.get(name) != new.get(name)
                ]
    return reasons


def has_changed_outs(changes: Iterable[Any]) -> bool:
    return any("changed outs" in change for change in changes)


def covers(changed: Iterable[str], name: str) -> bool:
    return any(name == key or name.startswith(f"{key}.") for key in changed)


def describe(stages: list[PlannedStage]) -> str:
    """One line for each stage: its name, what would be done, and why."""
    width = max((len(planned.stage) for planned in stages), default=0)
    return "\n".join(
        f"{planned.stage:{width}}  {planned.action:7}  {'; '.join(planned.reasons)}"
        for planned in stages
    )


def to_json(stages: list[PlannedStage]) -> str:
    return json.dumps([asdict(planned) for planned in stages], indent=2, ensure_ascii=False)
