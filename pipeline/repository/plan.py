"""What `dvc repro` would do to each stage, and why."""

import json
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipeline.repository.dvc_files import flatten
from pipeline.repository.dvc_worker import FAILING, DvcWorker
from pipeline.repository.graph import Graph, Stage, Targets, is_stale


class Action(StrEnum):
    RUN = "run"
    RESTORE = "restore"  # from the run cache
    RECORD = "record"  # data that has changed: its new hash goes to its .dvc file or to dvc.lock
    SKIP = "skip"
    FOLLOW = "follow"  # known once a stage before it has run
    CHECKOUT = "checkout"  # DVC refuses it: its data is in the cache only
    PULL = "pull"  # DVC refuses it: its data is on a remote only, or where it was imported from
    FAIL = "fail"  # DVC refuses it
    BLOCKED = "blocked"  # DVC refuses a stage before it


REFUSED = (Action.CHECKOUT, Action.PULL, Action.FAIL)
# What the place of missing data means, as dvc_describe.py names it
PLACES = {
    "cache": (Action.CHECKOUT, "the cache has it: dvc checkout {name}"),
    "remote": (Action.PULL, "the remote has it: dvc pull {name}"),
    "source": (Action.PULL, "it can be imported again: dvc pull {name}"),
    "unknown": (Action.PULL, "not in the cache, and the remote does not answer: dvc pull {name}"),
    "nowhere": (Action.FAIL, "neither the cache nor a remote has it; put it back"),
    "untracked": (Action.FAIL, "no stage makes it; put it back"),
}


@dataclass(frozen=True)
class PlannedStage:
    """What `dvc repro` would do to a stage, and why."""

    name: str
    action: Action
    reasons: tuple[str, ...]


def plan(dvc: DvcWorker, graph: Graph, targets: Targets) -> list[PlannedStage]:
    """Say what `dvc repro` would do to each stage of `graph`, and why; nothing changes.

    The graph is what `read_graph` gave for these targets.
    """
    outcomes = dry_run(dvc, targets) if is_stale(graph) else {}
    planned: dict[str, PlannedStage] = {}
    for stage in graph.values():
        before = [planned[name] for name in stage.needs]
        unreached = decide_unreached(stage, before) if outcomes else Action.SKIP
        action, refusal = outcomes.get(stage.name, (unreached, ""))
        if action is Action.FAIL:
            action, *reasons = explain_refusal(stage, refusal)
        else:
            reasons = [*describe_changes(stage), *describe_following(before, action)]
        planned[stage.name] = PlannedStage(stage.name, action, tuple(reasons) or ("unchanged",))
    return list(planned.values())


def plan_forced(graph: Graph) -> list[PlannedStage]:
    """Say what `dvc repro --force` would do."""
    return [
        PlannedStage(stage.name, Action.RUN if stage.runs else Action.RECORD, ("forced",))
        for stage in graph.values()
    ]


def dry_run(dvc: DvcWorker, targets: Targets) -> dict[str, tuple[Action, str]]:
    """Let DVC reproduce a copy of the workspace in which every command fails.

    Returns what DVC did to each stage that it reached, with its reason if it refused.
    """
    with tempfile.TemporaryDirectory(prefix="plan-") as scratch:
        arguments = (f"--scratch={scratch}", *targets.arguments())
        answer = dvc.run("rehearse", *arguments, environment=FAILING)
    return {
        name: (Action(outcome), refusal) for name, (outcome, refusal) in json.loads(answer).items()
    }


def decide_unreached(stage: Stage, before: Collection[PlannedStage]) -> Action:
    """Return the action for a stage that DVC did not come to, because one before it failed."""
    if any(stage.action in (*REFUSED, Action.BLOCKED) for stage in before):
        return Action.BLOCKED
    return Action.FAIL if stage.missing else Action.FOLLOW


def explain_refusal(stage: Stage, refusal: str) -> tuple[Any, ...]:
    """Return the action for a stage that DVC refuses, and the reasons."""
    if not stage.missing:
        return Action.FAIL, *describe_changes(stage), refusal
    worst = max(stage.missing.values(), key=list(PLACES).index)
    reasons = (f"{path} is not here; {PLACES[place][1]}" for path, place in stage.missing.items())
    return PLACES[worst][0], *(reason.format(name=stage.name) for reason in reasons)


def describe_following(before: Collection[PlannedStage], action: Action) -> Iterator[str]:
    """Yield what a stage follows, or is blocked by, unless it is skipped."""
    acting = [stage for stage in before if stage.action is not Action.SKIP]
    if acting and action not in (Action.SKIP, Action.RECORD):
        verb = "needs" if action is Action.BLOCKED else "follows"
        yield f"{verb} {', '.join(stage.name for stage in acting)}"


def describe_changes(stage: Stage) -> Iterator[str]:
    """Put DVC's status of a stage into words; a parameter with its recorded and present value."""
    if stage.is_frozen:
        yield "frozen"
    if stage.changes and not stage.is_locked:
        yield f"not in {stage.lock} yet"
        return
    for change in stage.changes:
        if isinstance(change, str):
            yield change
            continue
        for path, how in (item for files in change.values() for item in files.items()):
            if path not in stage.params:
                yield f"{path} {how}"
                continue
            old, new = map(flatten, stage.params[path])
            for name in sorted(old.keys() | new.keys()):
                if old.get(name) != new.get(name):
                    yield f"{path} {name} {old.get(name, 'unset')} → {new.get(name, 'unset')}"


def describe(planned: list[PlannedStage]) -> str:
    """A line for each stage: its name, what would be done, and why."""
    width = max((len(stage.name) for stage in planned), default=0)
    return "\n".join(
        f"{stage.name:{width}}  {stage.action:8}  {'; '.join(stage.reasons)}" for stage in planned
    )


def to_json(planned: list[PlannedStage]) -> str:
    """A list of stage, action and reasons."""
    content = [
        {"stage": stage.name, "action": stage.action, "reasons": stage.reasons} for stage in planned
    ]
    return json.dumps(content, indent=2, ensure_ascii=False)
