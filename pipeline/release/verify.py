"""Prove that a commit's outputs are what its code, data and parameters give.

The commit is checked out in a temporary worktree with an empty cache, and every stage runs. Then
its dvc.lock is compared with the one in the commit. The workspace, its index, branches and cache
are only read.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.release.overrides import link_data_source
from pipeline.release.receipts import read_receipt, without_receipt
from pipeline.release.verification import OutputComparison, Verification
from pipeline.repository.dvc_files import LockedOutput, configure_dvc, read_if_present
from pipeline.repository.dvc_output import error_reason
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.git import read_file, resolve_commit
from pipeline.repository.graph import Graph, Targets, read_graph
from pipeline.repository.processes import subprocess_environment
from pipeline.repository.worktree import worktree

EXIT_CODES = {"same": 0, "different": 1, "unknown": 2}


class VerifyError(PipelineError):
    """The commit could not be run again, so nothing is known."""

    exit_code = EXIT_CODES["unknown"]


def verify(root: Path, rev: str) -> Verification:
    """Run a commit again and compare; raise PipelineError if it cannot be run."""
    commit = resolve_commit(root, rev)
    with worktree(root, commit, "verify") as (tree, scratch):
        configure_dvc(
            tree, scratch
        )  # a cache of its own: DVC deletes from a cache what is modified
        graph = read_everything(tree)
        locked = recorded_outputs(graph)
        if not locked:
            raise VerifyError(
                f"{rev} holds no dvc.lock to compare with; run dvc repro and commit it"
            )
        modified = find_modified(tree, locked, "in the commit")
        modified += find_modified_locally(root, tree, graph)
        check_out_data(root, tree, scratch, graph)
        link_data_source(root, tree)
        reproduce_all(tree)
        found = {out.path: out.md5 for out in recorded_outputs(read_everything(tree))}
        this_machine = read_receipt(lambda path: read_if_present(tree / path), found.values())
    hashes = [*(out.md5 for out in locked), *found.values()]
    return Verification(
        commit,
        [OutputComparison(*out, found.get(out.path)) for out in without_receipt(locked)],
        modified,
        trained_on=read_receipt(lambda path: read_file(root, commit, path), hashes),
        this_machine=this_machine,
    )


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


def check_out_data(root: Path, tree: Path, scratch: Path, graph: Graph) -> None:
    """Take from the cache of `root` what no command makes; raise VerifyError if it is not there.

    It is the data that .dvc files track, and the outputs of frozen stages.
    """
    given = [stage.name for stage in graph.values() if not stage.runs]
    if not given:
        return
    configure_dvc(tree, scratch, inherit=root)
    with clean_worker(tree) as dvc:
        answer = dvc.request("checkout", "--quiet", *given)
    configure_dvc(tree, scratch)
    if answer.code:
        names = " ".join(given)
        raise VerifyError(f"{', '.join(given)}: not in the cache; get the data: dvc fetch {names}")


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
