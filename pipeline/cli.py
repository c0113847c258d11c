"""The command line: mnist COMMAND, or python -m pipeline COMMAND.

A command imports what it needs when it runs, so that `plan` starts without Prefect.
"""

import argparse
import atexit
import gc
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.errors import STOPPING, DataError, PipelineError, run_main

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return value


def positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return int(text)


def plan(arguments: argparse.Namespace) -> None:
    from pipeline.repository.dvc_worker import DvcWorker
    from pipeline.repository.graph import read_status
    from pipeline.repository.plan import plan

    with DvcWorker(Path.cwd()) as dvc:
        status = read_status(dvc)
        steps = plan(dvc, status.graph, status)
    if arguments.json:
        print(
            json.dumps(
                [{"stage": s.name, "action": s.action, "reasons": s.reasons} for s in steps],
                indent=2,
                ensure_ascii=False,
            )
        )
        return
    width = max(len(step.name) for step in steps)
    for step in steps:
        print(f"{step.name:{width}}  {step.action:7}  {'; '.join(step.reasons)}")


def run_flow(flow: "Callable[..., State[Any]]", *arguments: Any) -> None:
    from pipeline.orchestration.server import ensure_server

    with ensure_server():
        state = flow(*arguments, return_state=True)
    if not state.is_completed():
        sys.exit(1)


def run_command(arguments: argparse.Namespace) -> None:
    from pipeline.orchestration.flow import run_graph

    run_flow(
        run_graph,
        arguments.stages or None,
        arguments.force,
        arguments.when_busy,
        arguments.wait_seconds,
    )


def retrain(arguments: argparse.Namespace) -> None:
    from pipeline.release.overrides import parse_overrides
    from pipeline.release.retrain import retrain

    changes = parse_overrides(arguments.set)
    run_flow(retrain, arguments.rev, changes, arguments.publish, arguments.push, arguments.skip_ci)


def promote(arguments: argparse.Namespace) -> None:
    from pipeline.release.champion import check_target, promote
    from pipeline.release.versions import read_model_name
    from pipeline.repository.refs import Target

    root = Path.cwd()
    target = Target(root, read_model_name(root, "HEAD"), arguments.publish, arguments.push)
    check_target(target)
    print(promote(target, arguments.version))


def models(arguments: argparse.Namespace) -> None:
    from pipeline.release.versions import list_versions, read_model_name

    root = Path.cwd()
    versions = list_versions(root, read_model_name(root, "HEAD"))
    if arguments.json:
        print(json.dumps([asdict(version) for version in versions], indent=2))
        return
    names = list(
        dict.fromkeys(name for version in versions for name in version.metrics if "." not in name)
    )
    rows = (
        [["version", "stage", "commit", "created", *names]] if versions else [["no versions yet"]]
    )
    for version in versions:
        values = [
            f"{version.metrics[name]:.4g}" if name in version.metrics else "-" for name in names
        ]
        rows.append(
            [
                version.name,
                ", ".join(version.stages) or "-",
                version.commit[:7],
                version.created,
                *values,
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def serve(arguments: argparse.Namespace) -> None:
    from pipeline.orchestration.deployment import parse_schedule, serve
    from pipeline.orchestration.flow import run_graph
    from pipeline.release.retrain import retrain

    schedule = parse_schedule(arguments.cron, arguments.interval, arguments.timezone)
    if arguments.flow == "run":
        serve(run_graph, {}, schedule)
    else:
        serve(
            retrain,
            {"rev": arguments.rev, "branch": arguments.publish, "remote": arguments.push},
            schedule,
        )


def verify(arguments: argparse.Namespace) -> None:
    from pipeline.release.verify import EXIT_CODES, VerifyError, describe, to_json, verify

    try:
        receipt = verify(Path.cwd(), arguments.rev)
    except (PipelineError, OSError) as error:  # whose own exit codes would say "different"
        raise VerifyError(f"cannot tell: {error}") from error
    print(to_json(receipt) if arguments.json else describe(receipt))
    sys.exit(EXIT_CODES[receipt.verdict])


def predict(arguments: argparse.Namespace) -> None:
    from pipeline.mnist.predict import describe, predict_files, to_json

    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a file's name may be no text
    predictions, errors = predict_files(arguments.files)
    lines = [to_json(predictions)] if arguments.json else describe(predictions)
    print(*lines, sep="\n", end="\n" if predictions or arguments.json else "")
    if errors:
        raise DataError("\nerror: ".join(map(str, errors)))


def add_target(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--publish", default="champion", metavar="BRANCH", help="the champion's (%(default)s)"
    )
    command.add_argument(
        "--push", metavar="REMOTE", help="a Git remote to push branch and tags to, such as origin"
    )


def sweep(arguments: argparse.Namespace) -> None:
    from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

    from pipeline.repository.git import resolve_commit
    from pipeline.sweep.dask_cluster import dask_runner, find_clone_source
    from pipeline.sweep.sweep import sweep

    root, source = Path.cwd(), None
    commit = resolve_commit(root, arguments.rev)
    runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=arguments.jobs)
    if arguments.dask:
        source, runner = (
            find_clone_source(root, commit),
            dask_runner(arguments.dask, arguments.jobs),
        )
    placed = sweep.with_options(task_runner=runner)
    run_flow(placed, commit, arguments.set, arguments.publish, arguments.push, source)


def main() -> None:
    # what an import of Prefect or PyTorch makes lasts; to look through it for garbage takes a
    # quarter of a second
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)
    os.environ.setdefault("DO_NOT_TRACK", "1")  # no report of use to Prefect's makers
    parser = Parser(
        prog="python -m pipeline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(stop_on=())  # Prefect has its own way with signals
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "plan", help="say what would run, be restored or be skipped, and why; run nothing"
    )
    command.add_argument(
        "--json", action="store_true", help="for machines: a list of stage, action and reasons"
    )
    command.set_defaults(run=plan)

    command = commands.add_parser(
        "run", help="bring stages up to date now, as one Prefect flow run"
    )
    command.add_argument(
        "stages", nargs="*", metavar="STAGE", help="with what they need; without any, all"
    )
    command.add_argument("--force", action="store_true", help="run them even if nothing changed")
    command.add_argument(
        "--when-busy", choices=["wait", "skip"], default="wait", help="while others work here"
    )
    command.add_argument(
        "--wait-seconds", type=seconds, default=3600, metavar="N", help="how long (%(default)s)"
    )
    command.set_defaults(run=run_command)

    command = commands.add_parser(
        "retrain", help="publish what a commit gives, if it is better; touch nothing here"
    )
    command.add_argument("--rev", default="HEAD", metavar="REV", help="the commit (%(default)s)")
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a parameter"
    )
    add_target(command)
    command.add_argument(
        "--skip-ci",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="no CI for the commit (%(default)s)",
    )
    command.set_defaults(run=retrain)

    command = commands.add_parser("promote", help="make an earlier version the champion again")
    command.add_argument("version", metavar="VERSION", help="such as v1.0.0")
    add_target(command)
    command.set_defaults(run=promote, stop_on=STOPPING)

    command = commands.add_parser("models", help="list the versions, their stages and metrics")
    command.add_argument("--json", action="store_true", help="for machines")
    command.set_defaults(run=models, stop_on=STOPPING)

    command = commands.add_parser(
        "serve", help="retrain, or run, on a schedule, with Prefect's pages, until Ctrl-C"
    )
    command.add_argument(
        "flow", nargs="?", choices=["retrain", "run"], default="retrain", help="(%(default)s)"
    )
    command.add_argument(
        "--rev", default="HEAD", metavar="REV", help="the commit, as it is by then (%(default)s)"
    )
    add_target(command)
    schedule = command.add_mutually_exclusive_group()
    schedule.add_argument(
        "--cron", default="0 3 * * *", metavar="CRON", help="when ('%(default)s')"
    )
    schedule.add_argument("--interval", type=float, metavar="SECONDS", help="or how often")
    command.add_argument(
        "--timezone", default="UTC", metavar="ZONE", help="of the schedule (%(default)s)"
    )
    command.set_defaults(run=serve)

    command = commands.add_parser(
        "sweep", help="train every combination of parameters' values, each in isolation"
    )
    command.add_argument(
        "--set",
        action="append",
        required=True,
        metavar="NAME=VALUE,…",
        help="train.seed=1,2; repeat",
    )
    command.add_argument(
        "--rev", default="HEAD", metavar="REV", help="of which commit (%(default)s)"
    )
    command.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="so many at once (%(default)s)"
    )
    command.add_argument(
        "--dask",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="on a Dask cluster, or N processes of one here",
    )
    command.add_argument(
        "--publish",
        nargs="?",
        const="champion",
        metavar="BRANCH",
        help="retrain with the best there",
    )
    command.add_argument(
        "--push", metavar="REMOTE", help="and push to this Git remote, such as origin"
    )
    command.set_defaults(run=sweep)

    command = commands.add_parser(
        "verify", help="run a commit again from scratch and compare with its dvc.lock"
    )
    command.add_argument("--rev", default="HEAD", metavar="REV", help="the commit (%(default)s)")
    command.add_argument("--json", action="store_true", help="for machines: the receipt")
    command.set_defaults(run=verify, stop_on=STOPPING)

    command = commands.add_parser("predict", help="read the digit in image files")
    command.add_argument(
        "files", nargs="+", metavar="FILE", help="any image file, or - for standard input"
    )
    command.add_argument(
        "--json",
        action="store_true",
        help="for machines: a list of file, digit, confidence and top",
    )
    command.set_defaults(run=predict, stop_on=STOPPING)

    arguments = parser.parse_args()
    run_main(lambda: arguments.run(arguments), arguments.stop_on)


if __name__ == "__main__":
    main()
