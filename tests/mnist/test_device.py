"""The device that a stage computes on."""

import pytest
import torch

from pipeline.errors import ParamsError
from pipeline.mnist.device import check_precision, choose_device, keep_freed_memory

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


@pytest.mark.parametrize("capability", [None, "avx512_bf16", "amx_bf16", "bf16"])
def test_bfloat16_is_refused_where_the_processor_lacks_it(
    monkeypatch: pytest.MonkeyPatch, capability: str | None
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, capability: True})
    check_precision("float32", cpu, "train.precision")
    if capability:
        check_precision("bfloat16", cpu, "train.precision")
        return
    with pytest.raises(
        ParamsError, match=r"^params\.yaml: train\.precision must be float32 here, .*'bfloat16'$"
    ):
        check_precision("bfloat16", cpu, "train.precision")
