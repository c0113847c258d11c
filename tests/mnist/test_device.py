"""The device that a stage computes on."""

import pytest
import torch

from pipeline.errors import ParamsError
from pipeline.mnist.device import choose_device, keep_freed_memory

CPU = torch.device("cpu")


def test_a_device_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto", "train.device") == CPU
    with pytest.raises(ParamsError) as error:
        choose_device("cuda", "train.device")
    assert (
        str(error.value)
        == "params.yaml: train.device must be auto or what this machine has (cpu), got 'cuda'"
    )


def test_keeping_freed_memory_is_harmless_where_it_does_not_apply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("musl", ""))
    keep_freed_memory()
