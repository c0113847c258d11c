"""Prove that a commit's outputs are what its code, data and parameters give.

The commit is checked out in a temporary worktree with an empty cache, and every stage runs. Then
its dvc.lock is compared with the one in the commit. The workspace, its index, branches and cache
are only read.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.release.overrides import link_data_source
from pipeline.release.receipts import Environment, read_receipts
from pipeline.repository.dvc_files import LockedOutput, configure_dvc, read_if_present
from pipeline.repository.dvc_output import error_reason
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.git import resolve_commit
from pipeline.repository.graph import Graph, Targets, read_graph
from pipeline.repository.processes import subprocess_environment
from pipeline.repository.worktree import worktree

EXIT_CODES = {"same": 0, "different": 1, "unknown": 2}


class VerifyError(PipelineError):
    """The commit could not be run again, so nothing is known."""

    exit_code = EXIT_CODES["unknown"]


@dataclass(frozen=True)
class OutputComparison:
    """An output in the commit's dvc.lock and in that of the run now."""

    stage: str
    path: str
    locked: str  # md5
    found: str | None  # md5; None if the run gave no such output

    @property
    def is_same(self) -> bool:
        return self.locked == self.found


@dataclass(frozen=True)
class Verification:
    """What a run of the commit on this machine shows."""

    commit: str
    outs: list[OutputComparison]
    modified: list[str]  # files here that differ from the commit's dvc.lock, a message each
    trained_on: Environment | None  # from the receipt of the commit's model
    this_machine: Environment | None  # from the receipt that the run wrote
    has_matching_receipt: bool  # the commit has this machine's receipt for an output that differs

    @property
    def first_different(self) -> str | None:
        return next((out.stage for out in self.outs if not out.is_same), None)

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Where the environments differ: the value where it was trained, and the value here."""
        then, now = self.trained_on or {}, self.this_machine or {}
        return {
            name: (then.get(name), now.get(name))
            for name in then | now
            if then.get(name) != now.get(name)
        }

    @property
    def verdict(self) -> str:
        if self.modified:
            return "different"
        if not self.first_different:
            return "same"
        return "unknown" if self.changes and not self.has_matching_receipt else "different"


def verify(root: Path, rev: str) -> Verification:
    """Run a commit again and compare; raise PipelineError if it cannot be run."""
    commit = resolve_commit(root, rev)
    with worktree(root, commit, "verify") as (tree, scratch):
        configure_dvc(tree, scratch, inherit=root)
        graph = read_everything(tree)
        locked = recorded_outputs(graph)
        if not locked:
            raise VerifyError(
                f"{rev} holds no dvc.lock to compare with; run dvc repro and commit it"
            )
        modified = find_modified(tree, locked, "in the commit")
        modified += find_modified_locally(root, tree, graph)
        committed = read_receipts(tree)
        known = read_receipts(root) | committed
        check_out_data(tree, graph)
        configure_dvc(tree, scratch)
        link_data_source(root, tree)
        reproduce_all(tree)
        found = {out.path: out.md5 for out in recorded_outputs(read_everything(tree))}
        written = read_receipts(tree)
    outs = [OutputComparison(*out, found.get(out.path)) for out in locked]
    this_machine = first_receipt(written, (out.found for out in outs))
    has_matching_receipt = any(
        out.found in committed and committed[out.found] == this_machine
        for out in outs
        if not out.is_same
    )
    return Verification(
        commit,
        outs,
        modified,
        trained_on=first_receipt(known, (out.locked for out in outs)),
        this_machine=this_machine,
        has_matching_receipt=has_matching_receipt,
    )


def first_receipt(
    receipts: Mapping[str, Environment],
    hashes: Iterable[str | None],
) -> Environment | None:
    """Return the receipt of the first of these outputs that has one."""
    return next((receipts[md5] for md5 in hashes if md5 and receipts.get(md5)), None)


def read_everything(tree: Path) -> Graph:
    with clean_worker(tree) as dvc:
        return read_graph(dvc, Targets(all_pipelines=True))


def clean_worker(root: Path) -> DvcWorker:
    return DvcWorker(root, subprocess_environment(clean=True))


def recorded_outputs(graph: Graph) -> list[LockedOutput]:
    """Return every output that DVC has recorded."""
    return [
        LockedOutput(stage.name, path, md5)
        for stage in graph.values()
        for path, md5 in stage.outs.items()
        if md5
    ]


def check_out_data(tree: Path, graph: Graph) -> None:
    """Take from the cache what no command makes; raise VerifyError if it is not there.

    It is the data that .dvc files track, and the outputs of frozen stages.
    """
    given = [stage.name for stage in graph.values() if not stage.runs]
    if not given:
        return
    with clean_worker(tree) as dvc:
        answer = dvc.request("checkout", "--quiet", *given)
    if answer.code:
        names = " ".join(given)
        raise VerifyError(f"data is not in the cache: {names}; get it: dvc fetch {names}")


def reproduce_all(tree: Path) -> None:
    """Run every stage, its output to stderr; raise VerifyError if one fails."""
    lines: list[str] = []

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        lines.append(line)

    with clean_worker(tree) as dvc:
        answer = dvc.request("repro", "--all-pipelines", "--force", "--no-run-cache", log=log)
    if answer.code:
        text = "\n".join(lines)
        failed = re.search(r"failed to reproduce '(.+?)'", text)
        reason = re.search(r"^error: .+", text, re.MULTILINE)
        stage = failed[1] if failed else "list"
        words = reason[0] if reason else error_reason(text)
        raise VerifyError(f"the stage {stage} did not run to its end: {words}")


def find_modified(folder: Path, locked: list[LockedOutput], where: str) -> list[str]:
    """Name the outputs in `folder` that differ from dvc.lock; missing ones are left out."""
    modified = []
    for out in locked:
        path = folder / out.path
        if path.exists() and (found := dvc_md5(path)) != out.md5:
            hashes = f"has md5 {found[:8]}, dvc.lock says {out.md5[:8]}"
            modified.append(f"{out.stage}: {out.path} {where} {hashes}")
    return modified


def find_modified_locally(root: Path, tree: Path, graph: Graph) -> list[str]:
    """Name what differs in the workspace, if its locks are the commit's, and in the cache."""
    locked = recorded_outputs(graph)
    locks = {stage.lock for stage in graph.values()}
    has_same_locks = all(
        read_if_present(root / lock) == read_if_present(tree / lock) for lock in locks
    )
    modified = find_modified(root, locked, "in the workspace") if has_same_locks else []
    with clean_worker(root) as dvc:
        cache = Path(dvc.run("cache", "dir").strip()) / "files" / "md5"
    for out in locked:
        for md5 in [out.md5, *folder_entries(cache, out.md5)]:
            path = cache / md5[:2] / md5[2:]
            if path.is_file() and dvc_md5(path) != md5.removesuffix(".dir"):
                name = f"its name {md5[:8]} says ({path})"
                modified.append(f"{out.stage}: {out.path} in the cache is not what {name}")
    return modified


def folder_entries(cache: Path, md5: str) -> list[str]:
    """Return the hashes of a folder's files, from its list in DVC's cache."""
    path = cache / md5[:2] / md5[2:]
    if not md5.endswith(".dir") or not path.is_file():
        return []
    try:
        return [entry["md5"] for entry in json.loads(path.read_bytes())]
    except (ValueError, KeyError, TypeError):
        return []  # the list is modified, which its own hash shows


def dvc_md5(path: Path) -> str:
    """Return the hash that DVC gives a file or a folder."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    files = sorted(
        (str(file.relative_to(path)), file) for file in path.rglob("*") if file.is_file()
    )
    entries = [{"md5": dvc_md5(file), "relpath": name} for name, file in files]
    return hashlib.md5(json.dumps(entries).encode(), usedforsecurity=False).hexdigest() + ".dir"


def describe(verification: Verification) -> str:
    """Return the verification as text."""
    stages = dict.fromkeys(out.stage for out in verification.outs)
    width = max(map(len, stages))
    lines = [f"commit {verification.commit}", ""]
    for stage in stages:
        wrong = [out for out in verification.outs if out.stage == stage and not out.is_same]
        lines.append(f"{stage:{width}}  {'different' if wrong else 'same'}")
        for out in wrong:
            hashes = f"dvc.lock says {out.locked[:8]}, this run gave {(out.found or 'nothing')[:8]}"
            lines.append(f"  {out.path}: {hashes}")
    lines += ["", *(f"modified: {message}" for message in verification.modified)]
    environment = verification.this_machine or {}
    shown = ", ".join(f"{name} {value}" for name, value in environment.items())
    lines.append(f"environment: {shown}")
    if verification.trained_on is None:
        lines.append("the model's maker: no receipt in the commit")
    else:
        lines += [
            f"the model's maker: {name} {then}, here {now}"
            for name, (then, now) in verification.changes.items()
        ]
    return "\n".join([*lines, "", conclusion(verification)])


def conclusion(verification: Verification) -> str:
    """Return the verdict and its reason in one line."""
    if verification.verdict == "same":
        return "same: every output is what this commit's code, data and parameters give"
    if verification.modified:
        return f"different: {verification.modified[0]}"
    stage = verification.first_different
    if verification.verdict == "different":
        return f"different: {stage} is the first stage that gives something else than dvc.lock says"
    if verification.trained_on is None:
        reason = "and no receipt says on what machine the model was made"
    else:
        reason = f"but so does this machine: {', '.join(verification.changes)}"
    return f"cannot tell: {stage} differs, {reason}"


def to_json(verification: Verification) -> str:
    """Return the verification for machines; other programs read these keys."""
    stages = {out.stage: "same" for out in verification.outs}
    stages |= {out.stage: "different" for out in verification.outs if not out.is_same}
    content = {
        "commit": verification.commit,
        "verdict": verification.verdict,
        "conclusion": conclusion(verification),
        "first_different": verification.first_different,
        "stages": stages,
        "outs": [asdict(out) for out in verification.outs],
        "damaged": verification.modified,
        "environment": {"maker": verification.trained_on, "here": verification.this_machine},
    }
    return json.dumps(content, indent=2, ensure_ascii=False)
