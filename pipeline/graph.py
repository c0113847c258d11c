"""What DVC says of a workspace: its graph, what is stale and why, and the run of one stage.

Everything is asked through DVC's command line, in a subprocess with this interpreter's folder first on PATH. The
wording it relies on is held by a test against the pinned version.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from graphlib import TopologicalSorter
from pathlib import Path
from threading import Timer
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML

from pipeline.errors import PipelineError
from pipeline.supervisor import Command, Lifeline, StoppedError

LOCK = "dvc.lock"
DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")
# one command of `dvc` for each line, and its exit code after its output
ANSWER = """
import json, os, sys
from dvc.cli import main
root = os.getcwd()
for line in sys.stdin:
    print(f"\\0{main(['--wait-for-lock', *json.loads(line)])}", flush=True)
    os.chdir(root)
"""
LINES_KEPT = 20  # of a failed stage's output
KILLED = 128  # an exit code above it is this and the number of a signal
ELSEWHERE = (  # what a Git hook or a person may have set, and what points away from the folder that is worked in
    "GIT_DIR",
    "GIT_COMMON_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "PYTHONSAFEPATH",
)

Graph = dict[str, set[str]]  # each stage, after those it depends on, with them


class Action(StrEnum):
    RUN = "run"
    RESTORE = "restore"  # from the run cache
    SKIP = "skip"
    FOLLOW = "follow"  # known once a stage before it has run


class Outcome(StrEnum):
    """What DVC did; each is the name of a state on Prefect's pages."""

    RAN = "Completed"
    RESTORED = "Restored"
    SKIPPED = "Skipped"


@dataclass(frozen=True)
class View:
    """What DVC says of a workspace as it is now."""

    graph: Graph
    stale: dict[str, list[Any]]  # of each such stage, what changed
    cache: Path


@dataclass(frozen=True)
class Step:
    stage: str
    action: Action
    reasons: tuple[str, ...]


class Settings(BaseModel):
    """How a stage is run, not what it computes: its `meta` in dvc.yaml, which DVC leaves alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    timeout: float | None = Field(default=None, gt=0)  # seconds
    retries: int = Field(default=3, ge=0, le=50)  # after exit code 75, "try again later"
    retry_delay: float = Field(default=10, ge=0)  # seconds before the first, doubled for each next


class StageError(PipelineError):
    """A stage's command ended with another exit code than 0."""

    def __init__(self, stage: str, code: int, lines: Iterable[str]) -> None:
        self.stage, self.code = stage, code
        how = f"killed by signal {code - KILLED}" if code > KILLED else f"exit code {code}"
        super().__init__("\n".join([f"{stage} failed: {how}", *lines]))


class StageTimeoutError(PipelineError):
    pass


class BusyError(PipelineError):
    """Another process works on the stage's files; the message is its number and command."""


def environment() -> dict[str, str]:
    """Stages are `python -m …`: the python that DVC's shell finds must be this one, and the code that of its folder."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    ours = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    return ours | {"PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}


@dataclass(frozen=True)
class Dvc:
    """A DVC process that answers one question after the other, because its start takes longer than most answers."""

    root: Path
    process: "subprocess.Popen[str]"
    errors: IO[bytes]

    def ask(self, *arguments: str) -> str:
        """Return what `dvc ARGUMENTS` prints; raise PipelineError in its own words, or BusyError."""
        code, answer, errors = self.try_out(*arguments)
        if holder := find_holder(errors):
            raise BusyError(holder)
        if code:
            raise refusal(("dvc", *arguments), errors)
        return answer

    def try_out(self, *arguments: str) -> tuple[int, str, str]:
        """Return the exit code of `dvc ARGUMENTS`, its output and its errors."""
        assert self.process.stdin and self.process.stdout
        told = os.fstat(self.errors.fileno()).st_size
        with suppress(BrokenPipeError):  # where it has died, and answers nothing
            self.process.stdin.write(json.dumps(arguments) + "\n")
            self.process.stdin.flush()
        answer, end, code = "", "", "1"
        while not end and (line := self.process.stdout.readline()):
            text, end, code = line.partition("\0")
            answer += text
        errors = os.pread(self.errors.fileno(), 1 << 20, told).decode(errors="replace")
        return int(code or 1), answer, errors


@contextmanager
def dvc_in(root: Path) -> Iterator[Dvc]:
    """Have a DVC for questions about `root`; it runs no stage, whose command would fail in it."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", ANSWER],
            cwd=root,
            env=environment() | {"SHELL": shutil.which("false") or "/bin/false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield Dvc(root, process, errors)
        finally:
            process.communicate()


def ask(root: Path, *arguments: str) -> str:
    """Return what `dvc ARGUMENTS` prints in `root`; raise PipelineError in its own words, or BusyError."""
    with dvc_in(root) as dvc:
        return dvc.ask(*arguments)


def ask_in_peace(root: Path, *questions: Sequence[str]) -> list[str]:
    """Ask while a stage may be at work: what DVC said while it wrote dvc.lock anew is asked again."""
    with dvc_in(root) as dvc:
        while True:
            before = read(root / LOCK)
            try:
                answers = [dvc.ask(*question) for question in questions]
            except PipelineError:
                if read(root / LOCK) == before:
                    raise
            else:
                if read(root / LOCK) == before:
                    return answers


def refusal(command: Sequence[str], errors: str) -> PipelineError:
    reason = re.sub(r"^(ERROR|fatal): ", "", errors.strip().partition("\n")[0])
    return PipelineError(f"{shlex.join(command)} failed: {reason or 'it gave no reason'}")


def look(dvc: Dvc) -> View:
    """Raise PipelineError where there is no graph, or DVC refuses it."""
    if not (dvc.root / "dvc.yaml").is_file():
        raise PipelineError(f"{dvc.root} holds no dvc.yaml; run from the folder that does")
    graph, stale = parse_dot(dvc.ask("dag", "--dot")), json.loads(dvc.ask("status", "--json"))
    return View(graph, stale, Path(dvc.ask("cache", "dir").strip()))


def read_declaration(root: Path, stage: str) -> dict[str, Any]:
    """The stage as dvc.yaml has it."""
    declared: dict[str, Any] = read_yaml(root / "dvc.yaml").get("stages", {}).get(stage.partition("@")[0], {})
    each: dict[str, Any] = declared.get("do", declared)  # of a `foreach`
    return each


def read_settings(root: Path, stage: str) -> Settings:
    """Raise PipelineError where the `meta` of the stage in dvc.yaml is not what Settings allows."""
    try:
        return Settings.model_validate(read_declaration(root, stage).get("meta", {}))
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(map(str, ("stages", stage, "meta", *fault["loc"])))
        raise PipelineError(f"dvc.yaml: {name}: {fault['msg']}, got {fault['input']!r}") from error


def parse_dot(dot: str) -> Graph:
    before: Graph = {}
    for stage, after in re.findall(r'^"(.+?)"(?: -> "(.+?)")?;$', dot, re.MULTILINE):
        before.setdefault(stage, set())
        if after:
            before.setdefault(after, set()).add(stage)
    return {stage: before[stage] for stage in TopologicalSorter(before).static_order()}


def upstream(graph: Graph, targets: Iterable[str]) -> Graph:
    """Return the part of `graph` that makes `targets`; raise PipelineError where it has no such stage."""
    wanted = set(targets)
    if unknown := sorted(wanted - graph.keys()):
        raise PipelineError(f"dvc.yaml has no stage {', '.join(unknown)}; it has {', '.join(graph)}")
    for stage in reversed(graph):
        if stage in wanted:
            wanted |= graph[stage]
    return {stage: before for stage, before in graph.items() if stage in wanted}


def plan(dvc: Dvc, graph: Graph, view: View) -> list[Step]:
    """Say of every stage of `graph` what `dvc repro` would do, and why; nothing runs and nothing changes."""
    root, stale = dvc.root, view.stale
    if not stale:
        return [Step(stage, Action.SKIP, ("unchanged",)) for stage in graph]
    locked = read_yaml(root / LOCK).get("stages", {})
    said, relocked = rehearse(dvc, view.cache)
    steps: dict[str, Step] = {}
    for stage, before in graph.items():
        reasons = explain(root, stale.get(stage, []), locked.get(stage))
        acting = [name for name in steps if name in before and steps[name].action is not Action.SKIP]
        if said.get(stage) is Outcome.RAN:
            action = Action.RUN
        elif stage in said:
            is_touched = relocked.get(stage) != locked.get(stage) or has_changed_outs(stale.get(stage, []))
            action = Action.RESTORE if is_touched else Action.SKIP
        else:
            action = Action.FOLLOW if acting else Action.RUN
        if action is not Action.SKIP:
            reasons += [f"follows {', '.join(acting)}"] * bool(acting)
        steps[stage] = Step(stage, action, tuple(reasons) or ("unchanged",))
    return list(steps.values())


def rehearse(dvc: Dvc, cache: Path) -> tuple[dict[str, Outcome], dict[str, Any]]:
    """Let DVC reproduce a copy of the workspace in which every command fails; return what it said and its lock.

    What comes from the run cache does, as links, so that the stages after it are decided too. A dry run can't tell:
    it compares with dvc.lock alone.
    """
    root, command = dvc.root, ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True)
    if listed.returncode:
        raise refusal(command, listed.stderr)
    with tempfile.TemporaryDirectory(prefix="plan-") as name:
        copy = Path(name)
        for path in filter(lambda path: path and (root / path).is_file(), listed.stdout.split("\0")):
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, copy / path)
        (copy / ".dvc" / "config.local").write_text(
            f"[core]\nno_scm = true\nautostage = false\nsite_cache_dir = '{copy / 'site'}'\n"
            f"[cache]\ndir = '{cache}'\ntype = symlink\n",
            encoding="utf-8",
        )
        _, said, _ = dvc.try_out("--cd", name, "repro", "--keep-going")
        return dict(parse_outcomes(said)), read_yaml(copy / LOCK).get("stages", {})


def parse_outcomes(output: str) -> Iterable[tuple[str, Outcome]]:
    """Yield each stage that DVC's output names, and what DVC says that it did."""
    for line in output.splitlines():
        if match := re.fullmatch(r"Running stage '(.+)':", line):
            yield match[1], Outcome.RAN
        elif match := re.fullmatch(r"Stage '(.+)' is cached - skipping run, checking out outputs ?", line):
            yield match[1], Outcome.RESTORED
        elif match := re.fullmatch(r"Stage '(.+)' didn't change, skipping", line):
            yield match[1], Outcome.SKIPPED


def explain(root: Path, changes: Iterable[Any], locked: Mapping[str, Any] | None) -> list[str]:
    """Put DVC's status of one stage into words, parameters with their values in dvc.lock and now."""
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
                old, new = flatten(locked.get("params", {}).get(path, {})), flatten(read_yaml(root / path))
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


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'train': {'seed': 1}} → {'train.seed': 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a file that DVC has read before; one that is missing is empty."""
    return YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {} if path.is_file() else {}


def read(path: Path) -> bytes:
    """The file's content, of which there is none where the graph makes no such file."""
    return path.read_bytes() if path.is_file() else b""


def chain_up(graph: Graph, stages: Collection[str]) -> list[list[str]]:
    """Split `stages` into rows: each but the first of a row needs the one before it, and none of another row."""
    rows: list[list[str]] = []
    for stage in filter(stages.__contains__, graph):
        needed = graph[stage].intersection(stages)
        row = next((row for row in rows if row[-1] in needed and needed.issubset(row)), None)
        if row:
            row.append(stage)
        else:
            rows.append([stage])
    return rows


class Chain:
    """Stages in a row, which one DVC process brings up to date; after a failure, a new one goes on."""

    def __init__(self, root: Path, stages: Sequence[str], lifeline: Lifeline, *, force: bool = False) -> None:
        self.root, self.stages, self.lifeline, self.force = root, stages, lifeline, force
        self._command: Command | None = None
        self._lines: Iterator[str] = iter(())  # those not read yet

    def reproduce(self, stage: str, log: Callable[[str], None], timeout: float | None = None) -> Outcome:
        """Bring the next stage up to date, those before it being so; hand every line it writes to `log` at once.

        Raises StageError, StageTimeoutError after `timeout` seconds, StoppedError once the lifeline is cut, BusyError
        while somebody else works on the stage; after each of them no process of the chain is left.
        """
        after = self.stages[self.stages.index(stage) + 1 :]
        if not self._command:
            arguments = [*DVC, "repro", "--single-item", *["--force"] * self.force, stage, *after]
            self._command = Command(arguments, self.lifeline, self.root, environment())
            self._lines = self._command.lines()
        timer = Timer(timeout or 0, self._command.stop)
        if timeout:
            timer.start()
        tail: deque[str] = deque(maxlen=LINES_KEPT)
        outcome, goes_on = Outcome.SKIPPED, False
        try:
            for line in self._lines:
                if find_stage(line) in after:  # so this one is done
                    self._lines, goes_on = itertools.chain([line], self._lines), True
                    break
                log(line)
                tail.append(line)
                outcome = dict(parse_outcomes(line)).get(stage, outcome)
        except BaseException:
            self._command.stop()
            raise
        finally:
            is_late = bool(timeout) and not timer.is_alive()
            timer.cancel()
            goes_on = goes_on and not is_late
            if not goes_on:
                code, self._command = self._command.wait(), None
        if goes_on or code == 0:
            return outcome
        if self.lifeline.is_cut:
            raise StoppedError(f"{stage} was stopped")
        if is_late:
            raise StageTimeoutError(f"{stage} was ended after {timeout:g} seconds, the meta.timeout of dvc.yaml")
        raise name_failure(stage, code, tail)


def find_stage(line: str) -> str | None:
    """The stage of which DVC says that it begins with it, or that it cannot."""
    refused = re.match(r"ERROR: failed to reproduce '(.+?)'", line)
    return refused[1] if refused else next((stage for stage, _ in parse_outcomes(line)), None)


def name_failure(stage: str, code: int, lines: Collection[str]) -> PipelineError:
    """Tell from DVC's last words whether the stage failed, and how, or somebody else is at work on its files."""
    output = "\n".join(lines)
    if holder := find_holder(output):
        return BusyError(holder)
    if failed := re.search(r"failed to run: .+, exited with (-?\d+)$", output, re.MULTILINE):
        code = int(failed[1])
        return StageError(stage, code if code >= 0 else KILLED - code, lines)
    return StageError(stage, code if code in range(KILLED + 1, KILLED + 65) else 1, lines)


def find_holder(output: str) -> str | None:
    """Who has DVC's lock on a file that it needed."""
    found = re.search(r"it is being blocked by:\n +\(PID (\d+)\): (.+)", output)
    return f"process {found[1]}: {found[2]}" if found else None
