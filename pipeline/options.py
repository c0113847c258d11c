"""The options of each command of the command line."""

import argparse
import math
import re
from typing import NoReturn

MAX_APPROVAL = 86_400_000  # seconds, 1,000 days, to wait for a person


class Parser(argparse.ArgumentParser):
    """Refuses bad input in one line, with exit code 2."""

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


def approval_seconds(text: str) -> float:
    value = seconds(text)
    if value > MAX_APPROVAL:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_APPROVAL} (1,000 days), got {text}")
    return value


def positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return int(text)


def batch_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", text, re.ASCII) or text.endswith(".dvc"):
        raise argparse.ArgumentTypeError(
            "must be letters, digits, dots, dashes and underscores, at most 100, the first a letter"
            f" or digit, without .dvc at the end, got {text!r}"
        )
    return text


def add_plan_options(parser: Parser) -> None:
    add_stages_option(parser)
    add_json_option(parser, "a list of stage, action and reasons")


def add_stages_option(parser: Parser) -> None:
    parser.add_argument(
        "stages",
        nargs="*",
        metavar="STAGE",
        help="these and what they need (default: those of this folder's dvc.yaml)",
    )
    parser.add_argument(
        "-P",
        "--all-pipelines",
        action="store_true",
        help="the stages of every dvc.yaml and .dvc file of the repository",
    )


def add_run_options(parser: Parser) -> None:
    add_stages_option(parser)
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
    add_jobs_option(parser)


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
    add_approve_options(parser)
    add_jobs_option(parser)


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
    parser.add_argument(
        "--update", action="store_true", help="bring imported data up to date first (dvc update)"
    )
    add_approve_options(parser)
    add_jobs_option(parser)


def add_promote_options(parser: Parser) -> None:
    parser.add_argument("version", metavar="VERSION", help="a version that `models` lists")
    add_target_options(parser, "--branch", "--publish")


def add_models_options(parser: Parser) -> None:
    add_json_option(parser, "a list of name, commit, created, stages, metrics and branch")


def add_predict_options(parser: Parser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="an image file, or - for standard input"
    )
    add_json_option(parser, "a list of file, prediction, confidence, top and unsure")


def add_add_options(parser: Parser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="image files of one class, with --label; or a folder with a subfolder for each class",
    )
    parser.add_argument("--label", metavar="CLASS", help="the class of the image files")
    parser.add_argument(
        "--batch",
        type=batch_name,
        metavar="NAME",
        help="what to call the images (default: the date and a hash of them)",
    )
    parser.add_argument(
        "--keep-going", action="store_true", help="add the files without a fault, and exit with 3"
    )
    parser.add_argument(
        "--commit",
        action="store_true",
        help="commit them, and batches that no commit has yet, on the current branch, after a push"
        " to DVC's remote if there is one",
    )


def add_sweep_options(parser: Parser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        required=True,
        metavar="NAME=VALUE,VALUE",
        help="the values of a parameter, such as train.seed=1,2; may be repeated",
    )
    add_rev_option(parser, "the commit to train")
    add_jobs_option(parser, "train so many at once")
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


def add_approve_options(parser: Parser) -> None:
    parser.add_argument(
        "--approve",
        action="store_true",
        help="publish only what a person approves on Prefect's page",
    )
    parser.add_argument(
        "--approve-timeout",
        type=approval_seconds,
        default=86400,
        metavar="N",
        help="how long to wait for that person (%(default)s)",
    )


def add_jobs_option(parser: Parser, meaning: str = "let so many stages run at once") -> None:
    parser.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help=f"{meaning} (%(default)s)"
    )


def add_json_option(parser: Parser, content: str) -> None:
    parser.add_argument("--json", action="store_true", help=f"print JSON: {content}")


def add_rev_option(parser: Parser, meaning: str) -> None:
    parser.add_argument("--rev", default="HEAD", metavar="REV", help=f"{meaning} (%(default)s)")


def add_target_options(parser: Parser, *names: str) -> None:
    parser.add_argument(
        *(names or ["--publish"]),
        dest="publish",
        default="champion",
        metavar="BRANCH",
        help="the branch to publish to (%(default)s)",
    )
    add_push_option(parser)


def add_push_option(parser: Parser) -> None:
    parser.add_argument(
        "--push", metavar="REMOTE", help="push it to this Git remote too, such as origin"
    )
