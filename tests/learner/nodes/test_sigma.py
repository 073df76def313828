"""Sigma by one-step advantages, against a transcription in NumPy. (By returns: test_network.py.)"""

from __future__ import annotations

import numpy as np
import torch

from learner.nodes.sigma import OneStepSigma
from tests.learner.nodes.node_inputs import GAMMA, world
from tests.learner.worlds import make_spec


def test_one_step_advantages_by_hand() -> None:
    # gamma 0.9, V of s_0..s_3 is 1, 2, 3, 4. Step 1 terminates, step 2 is truncated and its final observation is worth 10.
    # Advantages: 1 + 0.9 * 2 - 1 = 1.8; 1 - 2 = -1; 1 + 0.9 * 10 - 3 = 7. Sigma^2 = (1.8^2 + 1 + 49) / 3.
    context, _ = world(make_spec())
    written = OneStepSigma(context).prepare(
        rewards_BT=torch.ones(1, 3),
        terminated_BT=torch.tensor([[False, True, False]]),
        truncated_BT=torch.tensor([[False, False, True]]),
        prior_value_BT1=torch.tensor([[1.0, 2, 3, 4]]),
        prior_final_value_BT=torch.tensor([[0.0, 0, 10]]),
        mask_BT=torch.ones(1, 3, dtype=torch.bool),
    )
    sigma = ((1.8**2 + 1 + 49) / 3) ** 0.5
    torch.testing.assert_close(written["sigma"], torch.tensor(sigma))
    torch.testing.assert_close(written["one_step_advantage_BT"], torch.tensor([[1.8, -1, 7]]) / sigma)


def test_absent_steps_do_not_change_sigma() -> None:
    rng = np.random.default_rng(2)
    rewards, values, finals = rng.normal(size=(4, 6)), rng.normal(size=(4, 7)), rng.normal(size=(4, 6))
    ends, cut, mask = rng.random((4, 6)) < 0.3, rng.random((4, 6)) < 0.5, rng.random((4, 6)) < 0.7
    terminated, truncated = ends & ~cut, ends & cut
    following = np.where(terminated, 0.0, np.where(truncated, finals, values[:, 1:]))
    advantage = rewards + GAMMA * following - values[:, :-1]
    context, _ = world(make_spec())
    written = OneStepSigma(context).prepare(
        rewards_BT=torch.from_numpy(np.where(mask, rewards, np.nan)),
        terminated_BT=torch.from_numpy(terminated),
        truncated_BT=torch.from_numpy(truncated),
        prior_value_BT1=torch.from_numpy(values),
        prior_final_value_BT=torch.from_numpy(finals),
        mask_BT=torch.from_numpy(mask),
    )
    sigma = np.sqrt(np.square(advantage[mask]).mean())
    np.testing.assert_allclose(written["sigma"].item(), sigma, rtol=1e-6)
    np.testing.assert_allclose(written["one_step_advantage_BT"].numpy()[mask], advantage[mask] / sigma, rtol=1e-5)
