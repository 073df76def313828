"""Under autocast the network gives bfloat16; every loss goes on in float32, or a softmax loses what training lives on."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from learner.update.objective import Weighed, model_outputs
from tests.learner.worlds import PLANS, inputs_of, make_batch, make_spec, make_trainer, make_updater_of

CASES: dict[str, tuple[str, dict[str, Any]]] = {arm: (arm, {}) for arm in PLANS} | {
    "sampled": ("full", {"losses.cmpo.estimator": "sampled"}),
    "proximal": ("full", {"losses.ppo_actor.anchor": "proximal"}),
}


@pytest.mark.parametrize("head", ["scalar", "categorical"])
@pytest.mark.parametrize("case", CASES)
def test_every_term_of_bfloat16_outputs_is_float32_and_what_float32_outputs_give(case: str, head: str) -> None:
    spec = make_spec(value_head=head)
    updater = make_updater_of(make_trainer(*CASES[case]), spec)
    values = updater.objective.prepare(inputs_of(updater, make_batch(spec)))
    minibatch = updater.objective.minibatch(values, torch.arange(6))
    outputs = cast("dict[str, Tensor]", model_outputs(updater.wrapped, minibatch, updater.plan.needs))
    half = {name: output.bfloat16() for name, output in outputs.items()}
    rounded = {name: output.float() for name, output in half.items()}
    for loss in updater.objective.losses:
        reads = updater.objective.reads["compute"][loss.name]
        of_half = loss.compute(**{name: (minibatch | half)[name] for name in reads})
        of_rounded = loss.compute(**{name: (minibatch | rounded)[name] for name in reads})
        for name, term in of_half.items():
            if term.value.is_floating_point():
                assert term.value.dtype == torch.float32, f"{loss.name}.{name}"
            assert torch.equal(kept(term.value, term.mask), kept(of_rounded[name].value, term.mask)), f"{loss.name}.{name}"
    weighed: Weighed = updater.objective.weigh(minibatch, half)  # type: ignore[arg-type]
    assert weighed.total.dtype == torch.float32


def kept(value: Tensor, mask: Tensor) -> Tensor:
    return value[mask]
