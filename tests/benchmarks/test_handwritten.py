"""The hand-written learner step is a fair yardstick only if it does the same mathematics."""

from __future__ import annotations

import pytest
import torch

from benchmarks.handwritten import ByHand, all_losses_step, ppo_step
from benchmarks.losses import ARMS, make, settings_of
from benchmarks.real_batch import real_inputs

RATE = 1e-4


@pytest.mark.parametrize("recipe", ["cartpole", "cogs_v_clips"])
@pytest.mark.parametrize(("arm", "step"), [("baseline", ppo_step), ("full", all_losses_step)])
def test_both_learner_steps_come_to_the_same_parameters(recipe: str, arm: str, step: object) -> None:
    settings = settings_of(recipe, ARMS[arm], plain=True)
    settings.actors.envs_per_actor, settings.trainer.batch_size = 4, 8
    settings.trainer.optimizer.learning_rate = RATE
    spec, inputs = real_inputs(settings)
    # Without rewards sigma would be about 0, and what it divides nothing but rounding.
    inputs["rewards_BT"] = torch.randn(inputs["rewards_BT"].shape, generator=torch.Generator().manual_seed(0))
    updater = make(settings, spec)
    before = torch.cat([parameter.detach().flatten() for parameter in updater.context.model.parameters()])
    hand = ByHand(updater.context.model, settings.trainer, settings.trainer.seed + 1)
    for _ in range(2):
        updater.learn(inputs, learning_rate=RATE, report=False)
        step(hand, inputs)  # type: ignore[operator]
    for ours, theirs in ((updater.context.model, hand.model), (updater.context.prior, hand.prior)):
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=RATE / 10)
    after = torch.cat([parameter.detach().flatten() for parameter in updater.context.model.parameters()])
    # By hand: 32 updates of Adam move a parameter by up to 32 learning rates, 320 times what rounding may come to here.
    assert float((after - before).abs().max()) > 10 * RATE


def test_the_batch_has_ends_and_padding_as_real_ones_have() -> None:
    spec, inputs = real_inputs(settings_of("cartpole", {}, plain=True))
    assert spec.encoder == "mlp"
    assert int(inputs["terminated_BT"].sum()) > 0
    _, inputs = real_inputs(settings_of("cogs_v_clips", {}, plain=True))
    assert int(inputs["truncated_BT"].sum()) == len(inputs["final_step"]) > 0
    assert float((inputs["observations_BT1"][..., 0] == 255).float().mean()) > 0.1  # pads
