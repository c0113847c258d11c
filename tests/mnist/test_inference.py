"""Images made ready for the network, and its logits."""

import torch
from helpers import NETWORK

from pipeline.mnist.inference import EVALUATION_BATCH, TensorDigits, normalize, predict
from pipeline.mnist.model import build_network
from pipeline.mnist.tensors import TensorInfo

INFO = TensorInfo(dataset="MNIST", classes=tuple("0123456789"), mean=0.5, std=0.5)


def test_normalize_matches_torchvision() -> None:
    from torchvision.transforms.functional import normalize as reference

    images = torch.arange(256, dtype=torch.uint8).repeat(784).view(-1, 1, 28, 28)
    expected = reference(images.float() / 255, [0.5], [0.5])
    assert torch.equal(normalize(images, INFO), expected)


def test_predict_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(1)
    count = EVALUATION_BATCH + 7
    images = torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8)
    network = build_network(NETWORK, 10)
    logits = predict(network, TensorDigits(images, torch.zeros(count), INFO))
    torch.testing.assert_close(
        logits, network(normalize(images, INFO)).detach(), rtol=1e-4, atol=1e-5
    )
