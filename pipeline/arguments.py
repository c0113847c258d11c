"""The command line's language: the commands in groups, their options, an example of each."""

import argparse
import math
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import NamedTuple, NoReturn


class Parser(argparse.ArgumentParser):
    """Refuses bad input in one line, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


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


def add_plan_options(parser: Parser) -> None:
    add_json_option(parser, "a list of stage, action and reasons")


def add_run_options(parser: Parser) -> None:
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help="run these and what they need (default: all)"
    )
    parser.add_argument("--force", action="store_true", help="run them even if nothing changed")
    parser.add_argument(
        "--when-busy",
        choices=["wait", "skip"],
        default="wait",
        help="what to do while another run works in this folder (%(default)s)",
    )
    parser.add_argument(
        "--wait-seconds",
        type=seconds,
        default=3600,
        metavar="N",
        help="how long to wait for the other run (%(default)s)",
    )


def add_serve_options(parser: Parser) -> None:
    parser.add_argument(
        "flow",
        nargs="?",
        choices=["retrain", "run"],
        default="retrain",
        help="what to do on the schedule (%(default)s)",
    )
    add_rev_option(parser, "the commit to retrain, looked up at each start")
    add_target_options(parser)
    schedule = parser.add_mutually_exclusive_group()
    schedule.add_argument(
        "--cron", default="0 3 * * *", metavar="CRON", help="when to start ('%(default)s')"
    )
    schedule.add_argument("--interval", type=float, metavar="SECONDS", help="or how often")
    parser.add_argument(
        "--timezone", default="UTC", metavar="ZONE", help="of the schedule (%(default)s)"
    )


def add_retrain_options(parser: Parser) -> None:
    add_rev_option(parser, "the commit to retrain")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a parameter; may be repeated",
    )
    add_target_options(parser)
    parser.add_argument(
        "--skip-ci",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="tell CI to ignore the published commit (%(default)s)",
    )


def add_promote_options(parser: Parser) -> None:
    parser.add_argument("version", metavar="VERSION", help="a version that `models` lists")
    add_target_options(parser)


def add_models_options(parser: Parser) -> None:
    add_json_option(parser, "a list of name, commit, created, stages and metrics")


def add_predict_options(parser: Parser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="an image file, or - for standard input"
    )
    add_json_option(parser, "a list of file, prediction, confidence, top and unsure")


def add_sweep_options(parser: Parser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        required=True,
        metavar="NAME=VALUE,VALUE",
        help="the values of a parameter, such as train.seed=1,2; may be repeated",
    )
    add_rev_option(parser, "the commit to train")
    parser.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="train so many at once (%(default)s)"
    )
    parser.add_argument(
        "--dask",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="use the Dask cluster at this address, or start one of N processes here",
    )
    parser.add_argument(
        "--publish",
        nargs="?",
        const="champion",
        metavar="BRANCH",
        help="retrain with the best combination and publish it, to %(const)s if no branch is named",
    )
    add_push_option(parser)


def add_verify_options(parser: Parser) -> None:
    add_rev_option(parser, "the commit to verify")
    add_json_option(parser, "verdict, conclusion, stages, outputs and environments")


def add_json_option(parser: Parser, content: str) -> None:
    parser.add_argument("--json", action="store_true", help=f"print JSON: {content}")


def add_rev_option(parser: Parser, meaning: str) -> None:
    parser.add_argument("--rev", default="HEAD", metavar="REV", help=f"{meaning} (%(default)s)")


def add_target_options(parser: Parser) -> None:
    parser.add_argument(
        "--publish",
        default="champion",
        metavar="BRANCH",
        help="the branch to publish to (%(default)s)",
    )
    add_push_option(parser)


def add_push_option(parser: Parser) -> None:
    parser.add_argument(
        "--push", metavar="REMOTE", help="push it to this Git remote too, such as origin"
    )


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
