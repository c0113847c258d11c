import pytest

from pipeline.errors import DataError, FetchError, ParamsError, PipelineError, run


@pytest.mark.parametrize(
    ("error", "code"),
    [(PipelineError("x"), 1), (ParamsError("x"), 2), (DataError("x"), 3), (FetchError("x"), 75), (OSError("x"), 1)],
)
def test_an_expected_error_is_one_line_and_its_exit_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        run(main)
    assert stop.value.code == code
    assert capsys.readouterr().err == "error: x\n"


def test_an_unexpected_error_keeps_its_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main)
