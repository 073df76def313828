"""The steps that a return uses, as the nodes report them: with their own decay, clip, ends and rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from learner.nodes.returns import GaeVtrace, Retrace
from protocol.data.trajectory import Array
from tests.learner.worlds import make_context, make_spec, make_trainer

GAMMA, LAMBDA, C_CLIP = 0.7, 0.6, 1.3
SIZE, STEPS = 6, 8
CHANGES = {"gamma": GAMMA, "losses.ppo_critic.gae_lambda": LAMBDA, "losses.ppo_critic.c_clip": C_CLIP}


def case() -> dict[str, Any]:
    """Random rows in which episodes terminate and are truncated, at different steps."""
    rng = np.random.default_rng(3)
    kind = rng.choice(3, (SIZE, STEPS), p=(0.7, 0.15, 0.15))
    return {
        "value_target_BT": torch.from_numpy(rng.normal(size=(SIZE, STEPS))),
        "value_BT1": torch.from_numpy(rng.normal(size=(SIZE, STEPS + 1))),
        "terminated_BT": torch.from_numpy(kind == 1),
        "truncated_BT": torch.from_numpy(kind == 2),
        "fresh_B": torch.from_numpy(np.arange(SIZE) < SIZE // 2),
        "mask_BT": torch.from_numpy(rng.random((SIZE, STEPS)) < 0.9),
    }


def expected_steps(ratio: Array, ends: Array) -> Array:
    """One step at a time, from the last one: 1 + gamma lambda ratio_t times that of the next step."""
    used = np.ones(ratio.shape)
    for step in range(STEPS - 2, -1, -1):
        used[:, step] += np.where(ends[:, step], 0, GAMMA * LAMBDA * ratio[:, step] * used[:, step + 1])
    return used


def check(found: dict[str, Any], ratio: Array, content: dict[str, Any]) -> None:
    ends = (content["terminated_BT"] | content["truncated_BT"]).numpy()
    assert content["terminated_BT"].any()
    assert content["truncated_BT"].any()
    fresh = content["fresh_B"][:, None]
    for name, value, mask in (
        ("steps", expected_steps(ratio, ends), content["mask_BT"] & fresh),
        ("steps_replayed", expected_steps(ratio, ends), content["mask_BT"] & ~fresh),
        ("steps_on_policy", expected_steps(np.ones_like(ratio), ends), content["mask_BT"]),
    ):
        np.testing.assert_allclose(found[name].value.numpy(), value, rtol=1e-5)
        assert torch.equal(found[name].mask, mask)
    error = content["value_target_BT"] - content["value_BT1"][:, :-1]
    assert torch.equal(found["error"].value, error)


def test_gae_reports_the_steps_with_its_decay_and_c_clip() -> None:
    content = case()
    given = {name: value for name, value in content.items() if name != "value_BT1"}
    ratio = np.exp(np.random.default_rng(4).normal(size=(SIZE, STEPS)))
    assert (ratio > C_CLIP).any()
    node = GaeVtrace(make_context(make_trainer(changes=CHANGES)))
    found = node.measure(old_value_BT1=content["value_BT1"], importance_ratio_BT=torch.from_numpy(ratio), **given)
    check(found, ratio.clip(max=C_CLIP), content)


def test_retrace_reports_the_steps_with_the_priors_ratios_cut_at_1() -> None:
    content = case()
    given = {name: value for name, value in content.items() if name != "value_BT1"}
    rng = np.random.default_rng(5)
    prior, behaviour = (torch.from_numpy(rng.normal(size=(SIZE, STEPS, 3))).log_softmax(-1) for _ in range(2))
    actions = torch.from_numpy(rng.integers(0, 3, (SIZE, STEPS)))
    ratio = (prior - behaviour).gather(-1, actions[..., None])[..., 0].exp().numpy()
    assert ((ratio > 1.2) & (ratio < 2)).any()
    assert (ratio > 2).any()
    node = Retrace(make_context(make_trainer(changes=CHANGES), make_spec()))
    found = node.measure(
        prior_value_BT1=content["value_BT1"],
        prior_log_probs_BTA=prior,
        behaviour_log_probs_BTA=behaviour,
        actions_BT=actions,
        **given,
    )
    check(found, ratio.clip(max=1), content)
