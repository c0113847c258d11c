"""Runs that machines share through DVC's remote: what one has run, another restores.

The remote is a help and no need. What cannot be fetched is run, what cannot be pushed stays here,
and either is one line in the log.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.release.overrides import link_data_source
from pipeline.repository.dvc_files import DVC_FILE, configure_dvc, read_yaml
from pipeline.repository.dvc_output import command_error
from pipeline.repository.dvc_worker import FAILING, DvcWorker
from pipeline.repository.git import git
from pipeline.repository.worktree import worktree, write_files

Log = Callable[[str], object]


def fetch_runs(
    root: Path,
    commit: str,
    files: Mapping[str, bytes],
    stages: Iterable[str],
    log: Log,
) -> None:
    """Fetch what the stages of a commit lack here, and what others have made of them.

    `files` are those that differ from the commit: parameters that are set, imports that are newer.

    DVC fetches what it needs and no more while it reproduces. So it reproduces in a worktree of its
    own, with a shell that fails instead of running anything.
    """
    with worktree(root, commit, "fetch") as (tree, scratch):
        configure_dvc(tree, scratch, inherit=root)
        write_files(tree, files)
        link_data_source(root, tree)
        with DvcWorker(tree) as dvc:
            options = ("--pull", "--keep-going")
            errors = dvc.request("repro", *options, *stages, environment=FAILING).errors
    refusal = r"^(?:ERROR: unexpected error - |WARNING: Failed to pull run cache: )(.+)"
    if refused := re.search(refusal, errors, re.MULTILINE):
        log(f"DVC's remote gave no runs: {refused[1]}; this run goes on with what is here")


def push_runs(tree: Path, stages: Iterable[str], log: Log) -> None:
    """Push the run cache, and all outputs that the stages of a worktree have; dvc.yaml changes.

    DVC pushes no output that lives in Git, but restores a stage from its run cache only with all
    its outputs. So dvc.yaml says of none that it lives in Git.
    """
    listed = git(tree, "ls-files", "-z", str(DVC_FILE), f"*/{DVC_FILE}")
    for path in (tree / name for name in listed.split("\0") if name):
        graph = read_yaml(path)
        for stage in (graph.get("stages") or {}).values():
            cache_all_outputs(stage.get("do", stage))
        YAML(typ="safe").dump(graph, path)
    command = ("push", "--run-cache", *stages)
    with DvcWorker(tree) as dvc:
        answer = dvc.request(*command)
    if answer.code:
        error = command_error(("dvc", *command), answer.errors)
        log(f"{error}; other machines cannot restore this run")


def cache_all_outputs(stage: dict[str, Any]) -> None:
    """Take `cache: false` from a stage as dvc.yaml declares it."""
    for kind in ("outs", "metrics", "plots"):
        for out in stage.get(kind) or []:
            for settings in out.values() if isinstance(out, dict) else []:
                settings.pop("cache", None)
