"""Prove that a commit's outputs are what its code, data and parameters give.

The commit is checked out in a temporary worktree with an empty cache, and every stage runs. Then
its dvc.lock is compared with the one in the commit. The workspace, its index, branches and cache
are only read.
"""

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.release.overrides import link_data_source
from pipeline.release.receipts import Environment, read_receipt, without_receipt
from pipeline.repository.dvc_files import (
    LOCK,
    LockedOutput,
    configure_dvc,
    locked_outputs,
    read_if_present,
)
from pipeline.repository.dvc_output import parse_outcomes
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.git import read_file, resolve_commit
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
    trained_on: Environment | None  # from the commit's receipt
    this_machine: Environment | None  # from the receipt that the run wrote

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
        return "unknown" if self.changes else "different"


def verify(root: Path, rev: str) -> Verification:
    """Run a commit again and compare; raise PipelineError if it cannot be run."""
    commit = resolve_commit(root, rev)
    with worktree(root, commit, "verify") as (tree, scratch):
        locked = locked_outputs(read_if_present(tree / LOCK))
        if not locked:
            raise VerifyError(
                f"{rev} holds no dvc.lock to compare with; run dvc repro and commit it"
            )
        modified = find_modified(tree, locked, "in the commit")
        modified += find_modified_locally(root, tree, locked)
        configure_dvc(tree, scratch)
        link_data_source(root, tree)
        reproduce_all(tree)
        found = {out.path: out.md5 for out in locked_outputs(read_if_present(tree / LOCK))}
        this_machine = read_receipt(lambda path: read_if_present(tree / path), found.values())
    hashes = [*(out.md5 for out in locked), *found.values()]
    return Verification(
        commit,
        [OutputComparison(*out, found.get(out.path)) for out in without_receipt(locked)],
        modified,
        trained_on=read_receipt(lambda path: read_file(root, commit, path), hashes),
        this_machine=this_machine,
    )


def reproduce_all(tree: Path) -> None:
    """Run every stage, its output to stderr; raise VerifyError if one fails."""
    lines: list[str] = []

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        lines.append(line)

    with DvcWorker(tree, subprocess_environment(clean=True)) as dvc:
        answer = dvc.request("repro", "--force", "--no-run-cache", log=log)
    if answer.code:
        stages = [stage for stage, _ in parse_outcomes("\n".join(lines))]
        last = lines[-1] if lines else ""
        reason = next((line for line in lines if line.startswith("error: ")), last)
        stage = stages[-1] if stages else "list"
        raise VerifyError(f"the stage {stage} did not run to its end: {reason}")


def find_modified(folder: Path, locked: list[LockedOutput], where: str) -> list[str]:
    """Name the outputs in `folder` that differ from dvc.lock; missing ones are left out."""
    modified = []
    for out in locked:
        path = folder / out.path
        if path.exists() and (found := dvc_md5(path)) != out.md5:
            hashes = f"has md5 {found[:8]}, dvc.lock says {out.md5[:8]}"
            modified.append(f"{out.stage}: {out.path} {where} {hashes}")
    return modified


def find_modified_locally(root: Path, tree: Path, locked: list[LockedOutput]) -> list[str]:
    """Name what differs in the workspace, if it has the commit's dvc.lock, and in the cache."""
    has_same_lock = read_if_present(root / LOCK) == read_if_present(tree / LOCK)
    modified = find_modified(root, locked, "in the workspace") if has_same_lock else []
    with DvcWorker(root, subprocess_environment(clean=True)) as dvc:
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
