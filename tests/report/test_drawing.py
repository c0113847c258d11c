"""The network as JSON in the page."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.mnist.layers import load_trace
from pipeline.mnist.tensors import load_digits
from pipeline.paths import LAYERS, TEST
from pipeline.report.drawing import to_json


@pytest.mark.usefixtures("finished_workspace")
def test_the_page_carries_the_weights_of_the_model_in_equal_bytes() -> None:
    trace = load_trace(Path(LAYERS))
    test, info = load_digits(TEST)
    text = to_json(trace, info, test.images[0, 0])
    assert text == to_json(trace, info, test.images[0, 0])
    steps = json.loads(text)["steps"]
    assert [step["name"] for step in steps] == [layer.name for layer in trace.info.layers]
    assert [tuple(step["shape"]) for step in steps] == [layer.shape for layer in trace.info.layers]
    weight = steps[0]["tensors"]["weight"]
    values = np.frombuffer(base64.b64decode(weight["packed"]), "<f2").reshape(weight["shape"])
    assert trace.filters is not None and trace.biases is not None
    np.testing.assert_allclose(values, trace.filters, rtol=1e-3, atol=1e-7)
    assert np.array_equal(np.float32(steps[0]["tensors"]["bias"]["numbers"]), trace.biases)
