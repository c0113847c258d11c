"""The command line: `mnist COMMAND`, or `python -m pipeline COMMAND`.

Each command imports what it needs when it runs. So --help starts at once, and `plan` without
Prefect. Their options are in options.py.
"""

import atexit
import gc
import io
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.arguments import build_parser
from pipeline.errors import STOPPING, DataError, PipelineError, run_main

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


def main(prog: str = "mnist") -> None:
    """Run the command that sys.argv names; `prog` is how the program was called."""
    spare_garbage_collection()
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect sends its makers no usage statistics
    arguments = build_parser(prog).parse_args()
    command = COMMANDS[arguments.command]
    # Prefect handles signals itself, and marks the flow run as cancelled or crashed.
    stop_on = () if command in FLOW_COMMANDS else STOPPING
    run_main(lambda: command(arguments), stop_on)


def spare_garbage_collection() -> None:
    """Collect garbage less often, and not at exit.

    What Prefect and PyTorch create on import lives as long as the process. To search it for
    garbage takes a quarter of a second.
    """
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)


def show_plan(arguments: Namespace) -> None:
    from pipeline.repository.dvc_worker import DvcWorker
    from pipeline.repository.graph import Targets, read_graph
    from pipeline.repository.plan import describe, plan, to_json

    targets = Targets(tuple(arguments.stages), arguments.all_pipelines)
    with DvcWorker(Path.cwd()) as dvc:
        stages = plan(dvc, read_graph(dvc, targets), targets)
    print(to_json(stages) if arguments.json else describe(stages))


def run_stages(arguments: Namespace) -> None:
    from pipeline.orchestration.flow import run_graph

    run_flow(
        run_graph,
        arguments.stages or None,
        arguments.force,
        arguments.when_busy,
        arguments.wait_seconds,
        arguments.all_pipelines,
        arguments.jobs,
    )


def serve_flow(arguments: Namespace) -> None:
    from pipeline.orchestration.deployment import parse_schedule, serve
    from pipeline.orchestration.flow import run_graph
    from pipeline.release.retrain import NOTIFIED, retrain

    schedule = parse_schedule(arguments.cron, arguments.interval, arguments.timezone)
    if arguments.flow == "run":
        serve(run_graph, {"jobs": arguments.jobs}, schedule)
    else:
        parameters = {
            "rev": arguments.rev,
            "branch": arguments.publish,
            "remote": arguments.push,
            "update": True,
            "approve": arguments.approve,
            "approve_timeout": arguments.approve_timeout,
            "jobs": arguments.jobs,
        }
        serve(retrain, parameters, schedule, NOTIFIED)


def retrain_model(arguments: Namespace) -> None:
    from pipeline.release.overrides import parse_overrides
    from pipeline.release.retrain import retrain

    changes = parse_overrides(arguments.set)
    run_flow(
        retrain,
        arguments.rev,
        changes,
        arguments.publish,
        arguments.push,
        arguments.skip_ci,
        arguments.update,
        arguments.approve,
        arguments.approve_timeout,
        arguments.jobs,
    )


def add_images(arguments: Namespace) -> None:
    from pipeline.add import Request, add

    paths, label = arguments.paths, arguments.label
    add(Request(paths, label, arguments.batch, arguments.keep_going, arguments.commit))


def promote_version(arguments: Namespace) -> None:
    from pipeline.release.champion import check_target, promote
    from pipeline.release.versions import read_model_name
    from pipeline.repository.refs import Target

    root = Path.cwd()
    target = Target(root, read_model_name(root, "HEAD"), arguments.publish, arguments.push)
    check_target(target)
    print(promote(target, arguments.version))


def list_models(arguments: Namespace) -> None:
    from pipeline.release.versions import describe, list_versions, read_model_name, to_json

    root = Path.cwd()
    versions = list_versions(root, read_model_name(root, "HEAD"))
    print(to_json(versions) if arguments.json else describe(versions))


def predict_images(arguments: Namespace) -> None:
    from pipeline.mnist.predict import describe, predict_files, to_json

    # A file's name may hold bytes that are no text.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    predictions, errors = predict_files(arguments.files)
    lines = [to_json(predictions)] if arguments.json else describe(predictions)
    for line in lines:
        print(line)
    if errors:
        raise DataError("\nerror: ".join(map(str, errors)))


def run_sweep(arguments: Namespace) -> None:
    from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

    from pipeline.repository.git import resolve_commit
    from pipeline.sweep.dask_cluster import dask_runner, find_clone_source
    from pipeline.sweep.sweep import share_cores, sweep

    root = Path.cwd()
    commit = resolve_commit(root, arguments.rev)
    source = None
    runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=arguments.jobs)
    if arguments.dask:
        source = find_clone_source(root, commit)
        runner = dask_runner(arguments.dask, arguments.jobs)
    share_cores(arguments.jobs)
    flow = sweep.with_options(task_runner=runner)
    run_flow(flow, commit, arguments.set, arguments.publish, arguments.push, source)


def verify_commit(arguments: Namespace) -> None:
    from pipeline.release.verification import describe, to_json
    from pipeline.release.verify import EXIT_CODES, VerifyError, verify

    try:
        verification = verify(Path.cwd(), arguments.rev)
    except (PipelineError, OSError) as error:
        # The exit code of another error could mean "different".
        raise VerifyError(f"cannot tell: {error}") from error
    print(to_json(verification) if arguments.json else describe(verification))
    sys.exit(EXIT_CODES[verification.verdict])


def run_flow(flow: "Callable[..., State[Any]]", *arguments: Any) -> None:
    """Run the flow against a Prefect server; exit as its error says unless it is completed."""
    from pipeline.orchestration.server import ensure_server

    with ensure_server():
        state = flow(*arguments, return_state=True)
    if not state.is_completed():
        error = state.result(raise_on_failure=False)
        sys.exit(error.exit_code if isinstance(error, PipelineError) else PipelineError.exit_code)


COMMANDS: dict[str, Callable[[Namespace], None]] = {
    "plan": show_plan,
    "run": run_stages,
    "serve": serve_flow,
    "retrain": retrain_model,
    "add": add_images,
    "promote": promote_version,
    "models": list_models,
    "predict": predict_images,
    "sweep": run_sweep,
    "verify": verify_commit,
}
FLOW_COMMANDS = (run_stages, serve_flow, retrain_model, run_sweep)


if __name__ == "__main__":
    main()
