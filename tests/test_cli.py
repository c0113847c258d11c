"""The command line: its help, its examples, and what it refuses."""

import shlex
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from helpers import ROOT
from toy import execute

from pipeline.arguments import GROUPS, build_parser
from pipeline.cli import COMMANDS, main

EXAMPLES = {name: command.example for group in GROUPS.values() for name, command in group.items()}


def run(*arguments: str) -> None:
    """Run the command line in this process, as `mnist ARGUMENTS`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["mnist", *arguments])
        main()


def test_the_help_shows_every_command_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: mnist [-h] COMMAND ...\n")
    for title, commands in GROUPS.items():
        _, _, group = text.partition(f"\n\n{title}:\n")
        lines = group.partition("\n\n")[0].splitlines()
        summaries = [line.split(maxsplit=1) for line in lines[::2]]
        assert summaries == [[name, command.summary] for name, command in commands.items()]
        assert [line.strip() for line in lines[1::2]] == [
            f"$ mnist {command.example}" for command in commands.values()
        ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_commands_help_ends_with_an_example_that_is_right(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(name, "--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: mnist {name} [-h]")
    assert text.endswith(f"\n\nexample: mnist {EXAMPLES[name]}\n")
    assert build_parser("mnist").parse_args(shlex.split(EXAMPLES[name])).command == name


def test_the_files_of_the_examples_exist() -> None:
    for word in " ".join(EXAMPLES.values()).split():
        assert "/" not in word or (ROOT / word).is_file(), word


def test_every_command_has_a_function() -> None:
    assert COMMANDS.keys() == EXAMPLES.keys()


def test_the_module_names_itself_as_it_was_called(tmp_path: Path) -> None:
    text = execute(tmp_path, sys.executable, "-m", "pipeline", "--help")
    assert text.startswith("usage: python -m pipeline [-h] COMMAND ...\n")
    assert "$ python -m pipeline retrain --set train.learning_rate=0.002\n" in text
    assert [line for line in text.splitlines() if len(line) > 80] == []


def test_the_help_loads_none_of_the_large_packages(tmp_path: Path) -> None:
    program = """
import sys
from pipeline.cli import main
sys.argv = ["mnist", "--help"]
try:
    main()
except SystemExit:
    loaded = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
    print(*sorted(loaded))
"""
    loaded = execute(tmp_path, sys.executable, "-c", program).splitlines()[-1].split()
    assert not {"dvc", "matplotlib", "numpy", "pandas", "prefect", "pydantic", "torch"} & {*loaded}
    assert "pipeline" in loaded


def test_the_console_command_runs_the_same_function() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entry = EntryPoint("mnist", project["scripts"]["mnist"], "console_scripts")
    assert entry.load() is main


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("run", "--wait-seconds", "x"), "argument --wait-seconds: must be 0 or more, got x"),
        (("run", "--wait-seconds", "-1"), "argument --wait-seconds: must be 0 or more, got -1"),
        (
            ("retrain", "--approve-timeout", "1e15"),
            "argument --approve-timeout: must be at most 86400000 (1,000 days), got 1e15",
        ),
        (("serve", "--cron", "0 99 * * *"), "--cron '0 99 * * *' --timezone UTC is no schedule"),
        (("serve", "--timezone", "Mars/Base"), "--timezone Mars/Base is no schedule"),
        (("serve", "--interval", "0"), "--interval 0 --timezone UTC is no schedule"),
        (("serve", "--interval", "nan"), "--interval nan --timezone UTC is no schedule"),
        (("serve", "--interval", "9", "--cron", "* * * * *"), "not allowed with argument"),
        (
            ("retrain", "--set", "seed=1"),
            "--set seed=1: must be SECTION.NAME=VALUE, such as train.learning_rate=0.002",
        ),
        (("add", "in", "--batch", "a/b"), "argument --batch: must be letters, digits, dots"),
        (("add",), "the following arguments are required: PATH; see mnist add --help"),
        (("promote",), "the following arguments are required: VERSION; see mnist promote --help"),
        (("serve", "verify"), "argument flow: invalid choice: 'verify' (choose from"),
        (("plan", "--yaml"), "unrecognized arguments: --yaml"),
        (("pln",), "argument COMMAND: invalid choice: 'pln' (choose from 'plan', 'run', "),
        ((), "the following arguments are required: COMMAND; see mnist --help"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == (1 if reason.endswith("is no schedule") else 2)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert reason in line
