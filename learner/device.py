"""Chooses the device that a learner rank trains on, from `trainer.device`."""

from __future__ import annotations

import torch

from oatmill.errors import UserError


def choose_device(asked: str, local_rank: int) -> torch.device:
    """The device that `trainer.device` selects on this machine."""
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise UserError(
            "trainer.device=cuda needs a CUDA GPU and a CUDA build of torch, but none was found; set it to cpu or auto"
        )
    if asked == "cpu" or not available:
        return torch.device("cpu")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
