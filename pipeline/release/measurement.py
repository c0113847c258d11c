"""The champion on the images that a candidate is judged by.

What it did on its commit's images is in DVC's cache or on its remote. If the candidate was measured
on others too, the champion's own model is measured on them: by the candidate's code, in a worktree
of the candidate's, with the champion's model in the place of the candidate's. DVC runs the stage
that writes the metrics, so a second time it is restored from the run cache.
"""

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.params import parse_yaml
from pipeline.paths import METRICS, PREDICTIONS
from pipeline.release.candidate import Candidate
from pipeline.release.versions import read_metrics, read_model
from pipeline.release.yardsticks import Champion, Evaluation, covers, select
from pipeline.repository.dvc_files import LOCK, configure_dvc, read_if_present
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.git import read_file
from pipeline.repository.processes import RunCancelledError
from pipeline.repository.refs import Target
from pipeline.repository.worktree import worktree, write_files


def evaluate_champion(
    target: Target,
    tip: str,
    candidate: Candidate,
    log: Callable[[str], None],
) -> Champion:
    """Return what the champion at `tip` did on its commit's images, and on the candidate's.

    If it cannot be measured on those, the reason is in what is returned.
    """
    with worktree(target.root, tip, "champion") as (tree, scratch):
        configure_dvc(tree, scratch, inherit=target.root)
        with DvcWorker(tree) as dvc:
            fetch(dvc, PREDICTIONS)
            metrics = read_metrics(read_file(target.root, tip, METRICS))
            stored = Evaluation(metrics, read_if_present(tree / PREDICTIONS))
            if covers_all(stored, candidate.evaluation):
                return Champion(stored)
            log("the champion's predictions do not cover the candidate's images: measuring it")
            try:
                model = read_model(target.root, tip).path
                require(dvc, [model])
                return Champion(stored, measure(target.root, candidate, tree / model, log))
            except RunCancelledError:
                raise
            except PipelineError as error:
                failure = reason_of(error)
    log(f"the champion could not be measured: {failure}")
    return Champion(stored, failure=failure)


def covers_all(champion: Evaluation, candidate: Evaluation) -> bool:
    return all(
        covers(select(champion, own=own), select(candidate, own=own)) for own in (False, True)
    )


def measure(
    root: Path,
    candidate: Candidate,
    model: Path,
    log: Callable[[str], None],
) -> Evaluation:
    """Return what a model does on the candidate's images; raise PipelineError if it cannot run."""
    with worktree(root, candidate.commit, "measure") as (tree, scratch):
        write_files(tree, candidate.files)
        configure_dvc(tree, scratch, inherit=root)
        place = read_model(root, candidate.commit).path
        stage, deps = evaluating_stage(candidate.lock)
        with DvcWorker(tree) as dvc:
            require(dvc, [dep for dep in deps if dep != place and not (tree / dep).exists()])
            (tree / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model, tree / place)
            dvc.reproduce(stage, log)
        return Evaluation(
            read_metrics(read_if_present(tree / METRICS)), read_if_present(tree / PREDICTIONS)
        )


def evaluating_stage(lock: bytes) -> tuple[str, list[Path]]:
    """Return the stage that writes the metrics, and what it depends on."""
    stages = (parse_yaml(lock, LOCK) or {}).get("stages", {})
    for name, entry in stages.items():
        if any(out["path"] == str(METRICS) for out in entry.get("outs", [])):
            return name, [Path(dep["path"]) for dep in entry.get("deps", [])]
    raise PipelineError(f"no stage of {LOCK} writes {METRICS}")


def fetch(dvc: DvcWorker, path: Path) -> bool:
    """Get a file of a worktree from DVC's cache, or else its remote; return whether it is there."""
    commands = ("checkout", "pull")
    return any(dvc.request(command, "--quiet", str(path)).code == 0 for command in commands)


def require(dvc: DvcWorker, paths: Iterable[Path]) -> None:
    """Get files of a worktree; raise PipelineError if one is nowhere."""
    for path in paths:
        if not fetch(dvc, path):
            raise PipelineError(f"{path} is neither in DVC's cache nor on its remote")


def reason_of(error: PipelineError) -> str:
    """Return what was found, in a line; what to do about it is meant for another run."""
    found = re.search(r"^(?:error: (.+)|([\w.]+Error: .+))", str(error), re.MULTILINE)
    return ((found[1] or found[2]) if found else str(error).splitlines()[0]).partition("; ")[0]
