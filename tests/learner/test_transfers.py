"""How often a learner step waits for the device: once an update, for whether to apply it, and once a report."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from learner.ranks.reduce import OneRank
from learner.reporting.measurements import Measurements
from tests.learner.worlds import PLANS, inputs_of, make_batch, make_spec, make_trainer, make_updater_of

WAITS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.masked_select.default}
"""What brings a number to the host, or needs to know how many there are: item, bool, float, x[mask]."""
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {arm: (arm, {}, {}) for arm in PLANS} | {
    "sampled": ("full", {"losses.cmpo.estimator": "sampled"}, {}),
    "proximal": ("full", {"losses.ppo_actor.anchor": "proximal"}, {"core": "gru", "burn_in": 2}),
    "factored": ("full", {}, {"sizes": (2, 3), "factored": True, "value_head": "categorical"}),
}


class Waits(TorchDispatchMode):
    """Counts operations that wait for the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in WAITS
        return func(*args, **(kwargs or {}))


class Transfers(TorchFunctionMode):
    """Counts what copies a whole tensor to the host, which is no operation where it lies there already."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in {Tensor.cpu, Tensor.tolist}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", CASES)
def test_the_device_is_asked_once_an_update_and_once_a_report(case: str) -> None:
    arm, changes, settings = CASES[case]
    spec = make_spec(**settings)
    updater = make_updater_of(make_trainer(arm, changes), spec)
    inputs = inputs_of(updater, make_batch(spec, absent=True))
    measurements = Measurements(updater.plan.losses, OneRank())
    with Waits() as waits, Transfers() as transfers:
        record = updater.learn(inputs, learning_rate=1e-3, report=True)
        assert record.gradients is not None
        # On a CPU, where there is nothing to wait for, a batch's mask is looked at beside.
        assert (waits.count, transfers.count) == (1, len(record.sums)) == (1, 4)
        measurements.add(record)
        report = measurements.report(updater.objective.coefs)
        assert (waits.count, transfers.count) == (1, 5)
    assert report.gradients_measured
    assert all(loss.gradient_norm > 0 for loss in report.losses.values())
