"""The flow against a real server, on small graphs of real processes: states, order, retries,
refusals.
"""

import pytest

from pipeline.cli import main


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("run", "--wait-seconds", "x"), "argument --wait-seconds: must be 0 or more, got x"),
        (("run", "--wait-seconds", "-1"), "argument --wait-seconds: must be 0 or more, got -1"),
        (("serve", "--cron", "0 99 * * *"), "--cron '0 99 * * *' --timezone UTC is no schedule"),
        (("serve", "--timezone", "Mars/Base"), "--timezone Mars/Base is no schedule"),
        (("serve", "--interval", "0"), "--interval 0 --timezone UTC is no schedule"),
        (("serve", "--interval", "nan"), "--interval nan --timezone UTC is no schedule"),
        (("serve", "--interval", "9", "--cron", "* * * * *"), "not allowed with argument"),
        (
            ("retrain", "--set", "seed=1"),
            "--set seed=1: must be SECTION.NAME=VALUE, such as train.learning_rate=0.002",
        ),
        (("promote",), "the following arguments are required: VERSION"),
        (("serve", "verify"), "argument flow: invalid choice: 'verify' (choose from"),
        (("plan", "--yaml"), "unrecognized arguments: --yaml"),
        ((), "the following arguments are required: COMMAND"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: tuple[str, ...],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["pipeline", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code != 0
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert reason in line
