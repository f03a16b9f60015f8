"""The choice between CPU and GPU."""

import pytest
import torch

from model.device import DeviceError, choose_device


@pytest.mark.parametrize(
    ("asked", "present", "chosen"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_the_option_chooses_the_device(monkeypatch, asked, present, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    assert choose_device(asked, "--device cuda") == chosen


def test_cuda_without_a_gpu_is_refused_and_names_the_option(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"--device cuda, but .*: use auto or cpu"):
        choose_device("cuda", "--device cuda")
