"""The results of a sweep, without the sweep."""

from pipeline.sweep.results import Trial, to_table


def test_any_result_ranks_above_a_failure() -> None:
    failed = Trial({"train.seed": 1}, "Failed", "exit code 2")
    worst = Trial({"train.seed": 2}, "Completed", "", 0.0, 1.5)
    best = Trial({"train.seed": 3}, "Restored", "", 0.5, 0.1)
    trials = sorted([failed, best, worst], key=lambda trial: trial.rank, reverse=True)
    assert trials == [best, worst, failed]
    assert [trial.has_result for trial in trials] == [True, True, False]
    assert failed.line == "train.seed 1: Failed, exit code 2"
    assert worst.line == "train.seed 2: validation accuracy 0.00%"


def test_the_table_has_a_row_for_each_trial() -> None:
    table = to_table([Trial({"train.seed": 2}, "Completed", "ran", 0.5, 1.5)])
    assert table.to_dict("records") == [
        {
            "train.seed": 2,
            "validation accuracy": 0.5,
            "state": "Completed",
            "seconds": 1.5,
            "message": "ran",
        }
    ]
