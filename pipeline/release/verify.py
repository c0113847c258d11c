"""Prove that a commit's outputs are what its code, data and parameters give: run it again and
compare.

The commit is checked out in a temporary worktree with an empty cache, every stage runs, and what
dvc.lock says then is compared with what it said in the commit. The workspace, its index, branches
and cache are only read.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.release.overrides import link_data_source
from pipeline.release.receipts import Environment, read_receipts
from pipeline.repository.dvc_files import (
    LOCK,
    LockedOutput,
    configure_dvc,
    locked_outputs,
    read_if_present,
)
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.git import resolve_commit
from pipeline.repository.processes import subprocess_environment
from pipeline.repository.worktree import worktree

EXIT_CODES = {"same": 0, "different": 1, "unknown": 2}


class VerifyError(PipelineError):
    """Nothing could be told."""

    exit_code = EXIT_CODES["unknown"]


@dataclass(frozen=True)
class OutputComparison:
    """One output of a stage, by its hash in the commit's dvc.lock and in that of the run now."""

    stage: str
    path: str
    locked: str
    found: str | None

    @property
    def is_same(self) -> bool:
        return self.locked == self.found


@dataclass(frozen=True)
class Verification:
    commit: str
    outs: list[OutputComparison]
    damaged: list[
        str
    ]  # files that are not what the commit's dvc.lock says, found without running anything
    maker: Environment | None  # of the run that made the commit's model
    here: Environment | None
    convicts: (
        bool  # the commit itself holds a receipt for what the run now gave, in this environment
    )

    @property
    def first_different(self) -> str | None:
        return next((out.stage for out in self.outs if not out.is_same), None)

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Where the maker's environment is not this one: its value and ours."""
        maker, here = self.maker or {}, self.here or {}
        return {
            name: (maker.get(name), here.get(name))
            for name in maker | here
            if maker.get(name) != here.get(name)
        }

    @property
    def verdict(self) -> str:
        if self.damaged:
            return "different"
        if not self.first_different:
            return "same"
        return "unknown" if self.changes and not self.convicts else "different"


def verify(root: Path, rev: str) -> Verification:
    """Raise PipelineError where the commit cannot be run again."""
    commit = resolve_commit(root, rev)
    with worktree(root, commit, "verify") as (tree, temporary):
        locked = locked_outputs(read_if_present(tree / LOCK))
        if not locked:
            raise VerifyError(
                f"{rev} holds no dvc.lock to compare with; run dvc repro and commit it"
            )
        damaged = [
            *find_modified(tree, locked, git_only=True),
            *find_modified_locally(root, tree, locked),
        ]
        receipts = read_receipts(tree)
        local = read_receipts(root)
        configure_dvc(tree, temporary)
        link_data_source(root, tree)
        reproduce_all(tree)
        found = {out.path: out.md5 for out in locked_outputs(read_if_present(tree / LOCK))}
        outs = [OutputComparison(*out, found.get(out.path)) for out in locked]
        made = read_receipts(tree)
    maker = next(
        (r for out in outs if (r := receipts.get(out.locked) or local.get(out.locked))), None
    )
    here = next((made[out.found] for out in outs if out.found in made), None)
    convicts = any(
        out.found in receipts and receipts[out.found] == here for out in outs if not out.is_same
    )
    return Verification(commit, outs, damaged, maker, here, convicts)


def reproduce_all(tree: Path) -> None:
    """Run every stage, its output to stderr; raise VerifyError if one fails."""
    lines: list[str] = []

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        lines.append(line)

    with DvcWorker(tree, subprocess_environment(clean=True)) as dvc:
        answer = dvc.request("repro", "--force", "--no-run-cache", log=log)
    if answer.code:
        stages = re.findall(r"^Running stage '(.+)':", "\n".join(lines), re.MULTILINE)
        last = lines[-1] if lines else ""
        reason = next((line for line in lines if line.startswith("error: ")), last)
        stage = stages[-1] if stages else "list"
        raise VerifyError(f"the stage {stage} did not run to its end: {reason}")


def find_modified(
    folder: Path, locked: list[LockedOutput], git_only: bool = False
) -> Iterator[str]:
    """Name each output in `folder` that is there and is not what `lock` says."""
    where = "in the commit" if git_only else "in the workspace"
    for out in locked:
        path = folder / out.path
        if path.exists() and (found := dvc_md5(path)) != out.md5:
            hashes = f"has md5 {found[:8]}, dvc.lock says {out.md5[:8]}"
            yield f"{out.stage}: {out.path} {where} {hashes}"


def find_modified_locally(root: Path, tree: Path, locked: list[LockedOutput]) -> Iterator[str]:
    """Name what is doctored in the user's workspace, where that is at this commit's dvc.lock, and
    in the cache.
    """
    if (root / LOCK).is_file() and (root / LOCK).read_bytes() == (tree / LOCK).read_bytes():
        yield from find_modified(root, locked)
    with DvcWorker(root, subprocess_environment(clean=True)) as dvc:
        cache = Path(dvc.run("cache", "dir").strip()) / "files" / "md5"
    for out in locked:
        for md5 in [out.md5, *folder_entries(cache, out.md5)]:
            path = cache / md5[:2] / md5[2:]
            if path.is_file() and dvc_md5(path) != md5.removesuffix(".dir"):
                name = f"its name {md5[:8]} says ({path})"
                yield f"{out.stage}: {out.path} in the cache is not what {name}"


def folder_entries(cache: Path, md5: str) -> list[str]:
    """The files of a folder in DVC's cache."""
    path = cache / md5[:2] / md5[2:]
    if not md5.endswith(".dir") or not path.is_file():
        return []
    try:
        return [entry["md5"] for entry in json.loads(path.read_bytes())]
    except (ValueError, KeyError, TypeError):
        return []  # its own hash is wrong, which is told


def dvc_md5(path: Path) -> str:
    """The hash that DVC gives a file or a folder."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    files = sorted(
        (str(file.relative_to(path)), file) for file in path.rglob("*") if file.is_file()
    )
    entries = [{"md5": dvc_md5(file), "relpath": name} for name, file in files]
    return hashlib.md5(json.dumps(entries).encode(), usedforsecurity=False).hexdigest() + ".dir"


def describe(receipt: Verification) -> str:
    """The receipt as text."""
    stages = dict.fromkeys(out.stage for out in receipt.outs)
    width = max(map(len, stages))
    lines = [f"commit {receipt.commit}", ""]
    for stage in stages:
        wrong = [out for out in receipt.outs if out.stage == stage and not out.is_same]
        lines.append(f"{stage:{width}}  {'different' if wrong else 'same'}")
        lines += [
            f"  {out.path}: dvc.lock says {out.locked[:8]}, this run gave"
            f" {(out.found or 'nothing')[:8]}"
            for out in wrong
        ]
    lines += ["", *(f"doctored: {fault}" for fault in receipt.damaged)]
    shown = receipt.here or {}
    lines.append("environment: " + ", ".join(f"{name} {value}" for name, value in shown.items()))
    if receipt.maker is None:
        lines.append("the model's maker: no receipt in the commit")
    else:
        lines += [
            f"the model's maker: {name} {theirs}, here {ours}"
            for name, (theirs, ours) in receipt.changes.items()
        ]
    return "\n".join([*lines, "", conclusion(receipt)])


def conclusion(receipt: Verification) -> str:
    if receipt.verdict == "same":
        return "same: every output is what this commit's code, data and parameters give"
    if receipt.damaged:
        return f"different: {receipt.damaged[0]}"
    stage = receipt.first_different
    if receipt.verdict == "different":
        return f"different: {stage} is the first stage that gives something else than dvc.lock says"
    if receipt.maker is None:
        reason = "and no receipt says on what machine the model was made"
    else:
        reason = f"but so does this machine: {', '.join(receipt.changes)}"
    return f"cannot tell: {stage} differs, {reason}"


def to_json(receipt: Verification) -> str:
    stages: dict[str, str] = {}
    for out in receipt.outs:
        stages[out.stage] = (
            "different" if not out.is_same or stages.get(out.stage) == "different" else "same"
        )
    content = {
        "commit": receipt.commit,
        "verdict": receipt.verdict,
        "conclusion": conclusion(receipt),
        "first_different": receipt.first_different,
        "stages": stages,
        "outs": [asdict(out) for out in receipt.outs],
        "damaged": receipt.damaged,
        "environment": {"maker": receipt.maker, "here": receipt.here},
    }
    return json.dumps(content, indent=2, ensure_ascii=False)
