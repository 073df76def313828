"""The device that `trainer.device` chooses."""

from __future__ import annotations

import pytest
import torch

from learner.device import choose_device
from oatmill.errors import UserError


def test_a_missing_gpu_raises_an_error_and_auto_uses_the_available_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"trainer\.device=cuda needs a CUDA GPU .* set it to cpu or auto"):
        choose_device("cuda", 0)
    assert choose_device("auto", 0) == choose_device("cpu", 0) == torch.device("cpu")
