"""The commands of the command line, in groups, with an example of each."""

import argparse
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import NamedTuple

from pipeline.options import (
    Parser,
    add_add_options,
    add_models_options,
    add_plan_options,
    add_predict_options,
    add_promote_options,
    add_retrain_options,
    add_run_options,
    add_serve_options,
    add_sweep_options,
    add_verify_options,
)


class Command(NamedTuple):
    summary: str
    example: str  # what is typed after the program's name
    add_options: Callable[[Parser], None]


def build_parser(prog: str) -> Parser:
    """The parser of all commands; it puts the name of the chosen one into `command`.

    `prog` is how the program was called, such as mnist.
    """
    parser = Parser(
        prog=prog,
        usage=f"{prog} [-h] COMMAND ...",
        description=f"Train, release and check a digit classifier.\n{list_commands(prog)}",
        epilog=f"The options of a command: {prog} COMMAND --help",
        formatter_class=RawDescriptionHelpFormatter,
    )
    # The description lists the commands in groups; argparse would list them in one row.
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, prog=prog, help=argparse.SUPPRESS
    )
    for commands in GROUPS.values():
        for name, command in commands.items():
            subparser = subparsers.add_parser(
                name,
                description=f"{command.summary[0].upper()}{command.summary[1:]}.",
                epilog=f"example: {prog} {command.example}",
                formatter_class=RawDescriptionHelpFormatter,
            )
            command.add_options(subparser)
    return parser


def list_commands(prog: str) -> str:
    """The commands in their groups, each with its summary and its example."""
    lines = []
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:"]
        for name, command in commands.items():
            lines += [f"  {name:8}  {command.summary}", f"{'':12}$ {prog} {command.example}"]
    return "\n".join(lines)


GROUPS = {
    "Run the graph": {
        "plan": Command(
            "say what would run, be restored or be skipped, and why; run nothing",
            "plan",
            add_plan_options,
        ),
        "run": Command(
            "bring stages up to date now, as one Prefect flow run", "run train", add_run_options
        ),
        "serve": Command(
            "retrain, or run, on a schedule, with Prefect's pages, until Ctrl-C",
            "serve --cron '0 3 * * *'",
            add_serve_options,
        ),
    },
    "Add data": {
        "add": Command(
            "check your own images and add them to what is trained on",
            "add --label 7 seven.png",
            add_add_options,
        ),
    },
    "Release and use models": {
        "retrain": Command(
            "publish what a commit gives, if it is good enough",
            "retrain --set train.learning_rate=0.002",
            add_retrain_options,
        ),
        "promote": Command(
            "make an earlier version the champion again", "promote v1.0.0", add_promote_options
        ),
        "models": Command(
            "list the versions, their stages and metrics", "models", add_models_options
        ),
        "predict": Command(
            "tell what image files show", "predict docs/five.jpg", add_predict_options
        ),
    },
    "Experiment": {
        "sweep": Command(
            "train every combination of parameters' values, each in isolation",
            "sweep --set train.learning_rate=0.002,0.004",
            add_sweep_options,
        ),
    },
    "Check results": {
        "verify": Command(
            "run a commit again from scratch and compare with its dvc.lock",
            "verify --rev champion",
            add_verify_options,
        ),
    },
}
