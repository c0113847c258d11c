"""The gate's verdicts on one yardstick and on two."""

from dataclasses import replace
from typing import Any

import pytest
from helpers import ROOT

from pipeline.errors import DataError, ParamsError
from pipeline.release.gate import GateParams, OwnGateParams, judge, read_gate
from pipeline.release.verdict import Verdict, to_markdown
from pipeline.release.yardsticks import Champion, Evaluation
from pipeline.repository.dvc_files import read_yaml

GATE = GateParams(metric="accuracy", minimum=0.5, largest_drop=0.1, significance=0.05)
OWN_GATE = OwnGateParams(images=4, minimum=0.6, largest_drop=0.2)
GATE_OF_BOTH = GATE.model_copy(update={"own": OWN_GATE})


def predictions(hits: str, digit: int = 7) -> bytes:
    """Return predictions of an image for each character, right if it is a 1."""
    rows = [
        f"{index},{digit},{digit if hit == '1' else digit - 1},0.9"
        for index, hit in enumerate(hits)
    ]
    return "\n".join(["index,label,prediction,confidence", *rows, ""]).encode()


def evaluation(hits: str) -> Evaluation:
    return Evaluation({"accuracy": hits.count("1") / len(hits)}, predictions(hits))


def with_own(hits: str, own: str) -> Evaluation:
    """Return what a model does on as many images of each kind, right where there is a 1."""
    rows = [
        f"{source},{index:032x},7,{7 if hit == '1' else 6},0.9"
        for source, of_source in (("MNIST", hits), ("own", own))
        for index, hit in enumerate(of_source)
    ]
    metrics = {"accuracy": hits.count("1") / len(hits)}
    if own:
        metrics |= {"own.accuracy": own.count("1") / len(own), "own.images": len(own)}
    header = "source,image,label,prediction,confidence"
    return Evaluation(metrics, "\n".join([header, *rows, ""]).encode())


@pytest.mark.parametrize(
    ("candidate", "champion", "passed", "reason"),
    [
        ("0001", None, False, "accuracy 25.00% is below the minimum of 50.00%"),
        ("0111", None, True, "accuracy 75.00%, and no champion yet"),
        ("0001", "0001", False, "accuracy 25.00% is below the minimum of 50.00%"),
        (
            "1" * 9 + "0",
            "1" * 10,
            True,
            "accuracy 90.00% against the champion's 100.00%, no difference beyond noise",
        ),
        ("1" * 8 + "00", "1" * 10, False, "the drop of 20.00% is more than the 10.00% allowed"),
        (
            "0" * 6 + "1" * 94,
            "1" * 100,
            False,
            "by more than noise: 0 images gained and 6 lost",
        ),
        (
            "0" * 5 + "1" * 95,
            "1" * 100,
            True,
            "no difference beyond noise: 0 images gained and 5 lost",
        ),
        (
            "1" * 100,
            "0" * 6 + "1" * 94,
            True,
            "more than noise: 6 images gained and 0 lost, McNemar's p = 0.0312",
        ),
        (
            "1" * 3,
            "1" * 4,
            True,
            "; not tested: the champion has no predictions of the same images",
        ),
    ],
)
def test_verdicts(candidate: str, champion: str | None, passed: bool, reason: str) -> None:
    verdict = judge(
        GATE, evaluation(candidate), Champion(evaluation(champion)) if champion else None
    )
    assert verdict.passed == passed
    assert reason in verdict.reason
    assert verdict.reason in to_markdown(verdict, "Published")


def test_a_negative_drop_asks_for_a_gain() -> None:
    gate = GATE.model_copy(update={"largest_drop": -0.2})
    champion = Champion(evaluation("1100"))
    assert not judge(gate, evaluation("1100"), champion).passed
    assert judge(gate, evaluation("1111"), champion).passed


def test_a_champion_without_the_metric_is_not_compared_by_it() -> None:
    for stored, reason in (
        (b"", "the champion was not measured on these images"),
        (predictions("1111"), "the champion's metrics have no accuracy"),
    ):
        verdict = judge(GATE, evaluation("1110"), Champion(Evaluation({}, stored)))
        assert verdict.passed
        assert verdict.reason == f"accuracy 75.00%, and {reason}"
    with pytest.raises(DataError, match="the candidate's metrics have no accuracy"):
        judge(GATE, Evaluation({}, b""), None)


ALIKE = "accuracy 90.00% against the champion's 90.00%, no difference beyond noise: 0 images"
NOISE = "no difference beyond noise"
GOOD = "1" * 9 + "0"  # on the data set


def judge_both(own: str, stored: str, measured: str = "", failure: str = "") -> Verdict:
    """Judge a candidate by own images; on the data set it is as good as the champion."""
    again = with_own(GOOD, measured) if measured else None
    champion = Champion(with_own(GOOD, stored), again, failure)
    return judge(GATE_OF_BOTH, with_own(GOOD, own), champion)


@pytest.mark.parametrize(
    ("own", "stored", "measured", "failure", "passed", "reason"),
    [
        (
            "1110",
            "1101",
            "",
            "",
            True,
            f"accuracy 75.00% against the champion's 75.00%, {NOISE}: 1 images gained and 1 lost,"
            " McNemar's p = 1",
        ),
        (
            "1111110",
            "1101",
            "1101000",
            "",
            True,
            f"accuracy 85.71% against the champion's 42.86%, {NOISE}: 3 images gained and 0 lost,"
            " McNemar's p = 0.25; of 3 new images the champion read 0 (0.0%), the candidate 2"
            " (66.7%)",
        ),
        (
            "1110",
            "",
            "1010",
            "",
            True,
            f"accuracy 75.00% against the champion's 50.00%, {NOISE}: 1 images gained and 0 lost,"
            " McNemar's p = 1; of 4 new images the champion read 2 (50.0%), the candidate 3"
            " (75.0%)",
        ),
        (
            "1111110",
            "1101",
            "",
            "its model is lost",
            True,
            "accuracy 85.71%, on the 4 of 7 images that both were measured on 100.00% against the"
            f" champion's 75.00%, {NOISE}: 1 images gained and 0 lost, McNemar's p = 1; the"
            " champion could not be measured on the others: its model is lost; of 3 new images the"
            " candidate read 2 (66.7%)",
        ),
        (
            "1011111",
            "1111",
            "",
            "its model is lost",
            False,
            "accuracy 85.71%, on the 4 of 7 images that both were measured on 75.00% against the"
            " champion's 100.00%: the drop of 25.00% is more than the 20.00% allowed; the champion"
            " could not be measured on the others: its model is lost; of 3 new images the"
            " candidate read 3 (100.0%)",
        ),
        (
            "1110",
            "",
            "",
            "its model is lost",
            True,
            "accuracy 75.00%, and the champion was not measured on these images: its model is lost;"
            " of 4 new images the candidate read 3 (75.0%)",
        ),
        ("0001", "0001", "", "", False, "accuracy 25.00% is below the minimum of 60.00%"),
        (
            "0" * 8 + "1" * 92,
            "1" * 100,
            "",
            "",
            False,
            "worse than the champion by more than noise: 0 images gained and 8 lost,"
            " McNemar's p = 0.00781",
        ),
        # batches were removed: the champion's own predictions are of all that is left
        (
            "1110",
            "11011111",
            "",
            "",
            True,
            f"accuracy 75.00% against the champion's 75.00%, {NOISE}: 1 images gained and 1 lost,"
            " McNemar's p = 1; 4 images that the champion was measured on are gone",
        ),
        (
            "0001",
            "00011",
            "",
            "",
            False,
            "accuracy 25.00% is below the minimum of 60.00%; 1 image that the champion was measured"
            " on is gone",
        ),
    ],
)
def test_own_images_are_a_yardstick_of_their_own(
    own: str, stored: str, measured: str, failure: str, passed: bool, reason: str
) -> None:
    verdict = judge_both(own, stored, measured, failure)
    data_set, of_own = verdict.results
    assert of_own.reason.startswith(reason)
    assert (verdict.passed, of_own.passed, data_set.passed) == (passed, passed, True)
    assert data_set.reason.startswith(ALIKE)
    sentences = [f"On MNIST, {data_set.reason}", f"On own images, {of_own.reason}"]
    assert verdict.reason == ". ".join(sentences if passed else reversed(sentences))
    page = to_markdown(verdict, "Published")
    assert f"\n\n{verdict.reason}\n\n| | MNIST | own images |\n|---|---|---|\n" in page
    assert "| minimum | 50.00% | 60.00% |\n| largest drop allowed | 10.00% | 20.00% |\n" in page


def test_a_candidate_must_pass_on_the_data_set_too() -> None:
    champion = Champion(with_own("1" * 10, "1110"))
    verdict = judge(GATE_OF_BOTH, with_own("1" * 7 + "000", "1111"), champion)
    assert [result.passed for result in verdict.results] == [False, True]
    assert not verdict.passed
    assert verdict.metric == "accuracy 70.00%, own images 100.00%"
    assert verdict.reason.startswith(
        "On MNIST, accuracy 70.00% against the champion's 100.00%: the d"
    )


def test_without_a_champion_the_minimum_of_each_counts() -> None:
    verdict = judge(GATE_OF_BOTH, with_own(GOOD, "1110"), None)
    assert verdict.reason == (
        "On MNIST, accuracy 90.00%, and no champion yet. On own images, accuracy 75.00%, and no"
        " champion yet"
    )
    assert not judge(GATE_OF_BOTH, with_own(GOOD, "1000"), None).passed


TOO_FEW = "3 own images, too few to judge by: 4 are asked for"


@pytest.mark.parametrize(
    ("own", "stored", "measured", "reason"),
    [
        ("000", None, "", f"accuracy 0.00%, and no champion yet; {TOO_FEW}"),
        (
            "000",
            "111",
            "",
            f"accuracy 0.00% against the champion's 100.00%, {NOISE}: 0 images gained and 3 lost,"
            f" McNemar's p = 0.25; {TOO_FEW}",
        ),
        (
            "100",
            "11",
            "110",
            f"accuracy 33.33% against the champion's 66.67%, {NOISE}: 0 images gained and 1 lost,"
            f" McNemar's p = 1; {TOO_FEW}; of 1 new image the champion read 0 (0.0%), the candidate"
            " 0 (0.0%)",
        ),
        (
            "0",
            None,
            "",
            "accuracy 0.00%, and no champion yet; 1 own image, too few to judge by: 4 are asked"
            " for",
        ),
    ],
)
def test_a_few_own_images_are_told_of_and_reject_nothing(
    own: str, stored: str | None, measured: str, reason: str
) -> None:
    candidate = with_own(GOOD, own)
    if stored is None:
        verdict = judge(GATE_OF_BOTH, candidate, None)
    else:
        verdict = judge_both(own, stored, measured)
    assert verdict.passed
    assert verdict.results[1].reason == reason
    assert "| images to judge by, at least |  | 4 |\n" in to_markdown(verdict, "Published")
    alone = judge(GATE_OF_BOTH, with_own("0" * 10, own), None)
    assert [result.passed for result in alone.results] == [False, True]


def test_as_many_own_images_as_are_asked_for_reject() -> None:
    verdict = judge_both("0001", "0001")
    assert not verdict.passed
    assert "too few" not in verdict.reason
    assert "images to judge by" not in to_markdown(verdict, "Rejected")


def test_the_page_shows_what_each_model_makes_of_the_new_images() -> None:
    page = to_markdown(judge_both("1111110", "1101", "1101000"), "Published")
    assert page.endswith(
        "| new images |  | 3 |\n"
        "| new images that the candidate reads right |  | 2 |\n"
        "| new images that the champion reads right |  | 0 |\n"
    )
    page = to_markdown(judge_both("1111110", "1101", failure="its model is lost"), "Published")
    assert "| images that both were measured on |  | 4 |\n" in page
    assert "| accuracy on these, the champion's |  | 75.00% |\n" in page
    assert page.endswith("| new images that the champion reads right |  | not known |\n")


def test_without_own_images_nothing_is_said_of_them_unless_the_champion_had_some() -> None:
    alone, champion = with_own(GOOD, ""), with_own(GOOD, "1110")
    assert judge(GATE_OF_BOTH, alone, Champion(alone)) == judge(GATE, alone, Champion(alone))
    verdict = judge(GATE_OF_BOTH, alone, Champion(champion))
    assert len(verdict.results) == 1
    assert verdict.reason.startswith(ALIKE)
    gone = "; no own images are held out: 4 images that the champion was measured on are gone"
    assert verdict.reason.endswith(gone)
    lost = replace(champion, predictions=alone.predictions)
    assert judge(GATE_OF_BOTH, alone, Champion(lost)).reason.endswith(gone)


def test_a_test_set_that_has_shrunk_is_told_of() -> None:
    verdict = judge(GATE, with_own("1" * 9, ""), Champion(with_own("1" * 100, "")))
    told = "91 images that the champion was measured on are gone"
    assert verdict.reason.endswith(f"McNemar's p = 1; {told}")
    assert "\n| images of the champion's that are gone | 91 |\n" in to_markdown(
        verdict, "Published"
    )
    alike = judge(GATE, with_own(GOOD, ""), Champion(with_own(GOOD, "")))
    assert "gone" not in to_markdown(alike, "Published")


def test_own_images_ask_for_a_section_of_the_gate() -> None:
    with pytest.raises(ParamsError) as raised:
        judge(GATE, with_own(GOOD, "1"), None)
    assert str(raised.value).startswith("params.yaml: gate.own is missing, and there are own")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("metric", ["f1", "precision", "recall"])
def test_other_metrics_count_on_own_images_too(metric: str) -> None:
    gate = GATE_OF_BOTH.model_copy(update={"metric": metric})
    candidate, champion = with_own(GOOD, "1111111"), with_own(GOOD, "1111")
    with pytest.raises(DataError, match=f"the candidate's metrics have no own.{metric}; let"):
        judge(gate, replace(candidate, metrics={metric: 0.9, "own.accuracy": 1}), None)
    metrics = {metric: 0.9, f"own.{metric}": 0.95}
    candidate, champion = (replace(each, metrics=metrics) for each in (candidate, champion))
    verdict = judge(gate, candidate, Champion(champion, failure="its model is lost"))
    assert verdict.reason.startswith(f"On MNIST, {metric} 90.00% against the champion's 90.00%")
    assert f"On own images, {metric} 95.00%, on the 4 of 7 images that both were" in verdict.reason


def test_the_gate_of_params_yaml_is_valid() -> None:
    assert read_gate(read_yaml(ROOT / "params.yaml")).metric == "accuracy"


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({}, "params.yaml: gate.metric is missing; add it"),
        (
            {"metric": "loss"},
            "params.yaml: gate.metric must be 'accuracy', ",
        ),
        (
            {"minimum": "0.9"},
            "params.yaml: gate.minimum must be a valid number, got '0.9'",
        ),
        ({"minimum": float("nan")}, "params.yaml: gate.minimum must be a finite number, got nan"),
        (
            {"significance": 0},
            "params.yaml: gate.significance must be greater than 0, got 0",
        ),
        ({"noise": 1}, "params.yaml: gate.noise is not a parameter; gate has metric, minimum, "),
        (
            {"own": {"images": 0, "minimum": 1, "largest_drop": 0}},
            "params.yaml: gate.own.images must be greater than or equal to 1, got 0",
        ),
        (
            {"own": {"images": 9.5, "minimum": 1, "largest_drop": 0}},
            "params.yaml: gate.own.images must be a valid integer, got 9.5",
        ),
        (
            {"own": {"minimum": 1, "largest_drop": 0}},
            "params.yaml: gate.own.images is missing; add it",
        ),
        (
            {"own": {"images": 1, "minimum": 2, "drop": 1}},
            "params.yaml: gate.own.minimum must be less than or equal to 1, got 2",
        ),
        (
            {"own": {"images": 1, "minimum": 1, "largest_drop": 0, "noise": 1}},
            "params.yaml: gate.own.noise is not a parameter; gate.own has images, minimum, ",
        ),
        ("accuracy", "params.yaml: gate must be a section of names and values, got 'accuracy'"),
    ],
)
def test_a_wrong_gate_is_refused_with_a_line_for_each_fault(section: Any, reason: str) -> None:
    content = GATE.model_dump() | section if section and isinstance(section, dict) else section
    with pytest.raises(ParamsError) as raised:
        read_gate({"gate": content})
    assert str(raised.value).startswith(reason)
    lines = str(raised.value).removeprefix("params.yaml: ").split("\nerror: params.yaml: ")
    assert all(line.startswith("gate") and "\n" not in line for line in lines)
