"""What `dvc repro` would do to each stage, and why."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.repository.dvc_files import LOCK, configure_dvc, flatten, read_yaml
from pipeline.repository.dvc_output import Outcome, command_error, parse_outcomes
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.graph import Graph, WorkspaceStatus
from pipeline.repository.processes import subprocess_environment


class Action(StrEnum):
    RUN = "run"
    RESTORE = "restore"  # from the run cache
    SKIP = "skip"
    FOLLOW = "follow"  # known once a stage before it has run


@dataclass(frozen=True)
class PlannedStage:
    """What `dvc repro` would do to a stage, and why."""

    name: str
    action: Action
    reasons: tuple[str, ...]


def plan(dvc: DvcWorker, graph: Graph, status: WorkspaceStatus) -> list[PlannedStage]:
    """Say what `dvc repro` would do to each stage of `graph`, and why; nothing changes."""
    if not status.stale:
        return [PlannedStage(stage, Action.SKIP, ("unchanged",)) for stage in graph]
    locked = read_yaml(dvc.root / LOCK).get("stages", {})
    outcomes, relocked = dry_run(dvc)
    planned: dict[str, PlannedStage] = {}
    for stage, needed in graph.items():
        changes = status.stale.get(stage, [])
        reasons = describe_changes(dvc.root, changes, locked.get(stage))
        acting = [
            name for name in planned if name in needed and planned[name].action is not Action.SKIP
        ]
        if outcomes.get(stage) is Outcome.RAN:
            action = Action.RUN
        elif stage in outcomes:
            # Restored or skipped in the copy, which has no outputs at first. Here it is a restore
            # only if the lock's entry or the outputs change.
            is_touched = relocked.get(stage) != locked.get(stage) or has_changed_outs(changes)
            action = Action.RESTORE if is_touched else Action.SKIP
        else:  # DVC did not come to it, because a stage that it needs failed in the copy
            action = Action.FOLLOW if acting else Action.RUN
        if acting and action is not Action.SKIP:
            reasons.append(f"follows {', '.join(acting)}")
        planned[stage] = PlannedStage(stage, action, tuple(reasons) or ("unchanged",))
    return list(planned.values())


def dry_run(dvc: DvcWorker) -> tuple[dict[str, Outcome], dict[str, Any]]:
    """Let DVC reproduce a copy of the workspace in which every command fails.

    DVC runs commands through $SHELL, which is /bin/false here. What the run cache has is restored
    in the copy, as links, so the stages after it are decided too. `dvc repro --dry` cannot tell:
    it compares with dvc.lock alone.

    Returns what DVC said of each stage, and the stages of the copy's dvc.lock.
    """
    cache = Path(dvc.run("cache", "dir").strip())
    with tempfile.TemporaryDirectory(prefix="plan-") as name:
        copy = Path(name)
        for path in list_files(dvc.root):
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(dvc.root / path, copy / path)
        configure_dvc(copy, copy, cache=cache, scm=False)
        failing = {"SHELL": shutil.which("false") or "/bin/false"}
        answer = dvc.request("--cd", name, "repro", "--keep-going", environment=failing)
        return dict(parse_outcomes(answer.output)), read_yaml(copy / LOCK).get("stages", {})


def list_files(root: Path) -> list[str]:
    """Return the files that Git tracks or would track."""
    command = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(
        command, cwd=root, env=subprocess_environment(), capture_output=True, text=True
    )
    if listed.returncode:
        raise command_error(command, listed.stderr)
    return [path for path in listed.stdout.split("\0") if path and (root / path).is_file()]


def describe_changes(
    root: Path,
    changes: Iterable[Any],
    locked: Mapping[str, Any] | None,
) -> list[str]:
    """Put DVC's status of one stage into words; a parameter with its values in dvc.lock and now."""
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
                continue
            old = flatten(locked.get("params", {}).get(path, {}))
            new = flatten(read_yaml(root / path))
            reasons += [
                f"{path} {name} {old.get(name, 'unset')} → {new.get(name, 'unset')}"
                for name in sorted(old.keys() | new.keys())
                if is_covered(name, by=how) and old.get(name) != new.get(name)
            ]
    return reasons


def has_changed_outs(changes: Iterable[Any]) -> bool:
    return any("changed outs" in change for change in changes)


def is_covered(name: str, *, by: Iterable[str]) -> bool:
    """Whether a parameter is one of these, or in a section that is."""
    return any(name == key or name.startswith(f"{key}.") for key in by)


def describe(planned: list[PlannedStage]) -> str:
    """A line for each stage: its name, what would be done, and why."""
    width = max((len(stage.name) for stage in planned), default=0)
    return "\n".join(
        f"{stage.name:{width}}  {stage.action:7}  {'; '.join(stage.reasons)}" for stage in planned
    )


def to_json(planned: list[PlannedStage]) -> str:
    """A list of stage, action and reasons."""
    content = [
        {"stage": stage.name, "action": stage.action, "reasons": stage.reasons} for stage in planned
    ]
    return json.dumps(content, indent=2, ensure_ascii=False)
