"""Estimators of advantages and value targets, as pure functions of `[B, T]` tensors.

If an episode ends at t, step t + 1 belongs to the next episode. A truncated step is bootstrapped from
the value of its final observation. The estimators correct for data of older policies.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Returns(NamedTuple):
    """Advantages for the actor and targets for the critic; `[B, T]`, in units of scaled reward."""

    advantage: Tensor
    value_target: Tensor


def bootstrap_values(next_value_BT: Tensor, final_value_BT: Tensor, terminated_BT: Tensor, truncated_BT: Tensor) -> Tensor:
    """The value after each step: of the next step, of the final observation if truncated, or 0.

    The unused values are replaced and not multiplied by 0, because they may be NaN.
    """
    return torch.where(truncated_BT, final_value_BT, next_value_BT).masked_fill(terminated_BT, 0.0)


def gae_vtrace(
    *,
    rewards_BT: Tensor,
    terminated_BT: Tensor,
    truncated_BT: Tensor,
    value_BT1: Tensor,
    final_value_BT: Tensor,
    importance_ratio_BT: Tensor,
    gamma: float,
    gae_lambda: float,
    rho_clip: float,
    c_clip: float,
) -> Returns:
    """Generalised advantage estimation with V-trace's corrections; on-policy it is GAE.

    delta_t = r_t + gamma (1 - terminated_t) V(next) - V(s_t);
    A_t = delta_t + gamma lambda n_t (R_{t+1} - V_{t+1}), with n_t = 0 if the episode ends at t, else 1;
    R_t - V_t = rho_t delta_t + gamma lambda c_t n_t (R_{t+1} - V_{t+1}).

    A_t is not multiplied by rho_t, because the policy loss has its own ratio. c has index t, as in the
    paper and in rlax: R_{t+1} - V_{t+1} already contains the ratio at t + 1, and a factor c_{t+1} would
    square it.

    Args:
        rewards_BT: scaled rewards.
        terminated_BT: whether the episode terminated at t.
        truncated_BT: whether the episode was truncated at t.
        value_BT1: the trained network's values at the batch's start, `[B, T + 1]`.
        final_value_BT: values of the final observations of truncated steps; any number elsewhere.
        importance_ratio_BT: pi_old / pi_b of the taken actions.
        gamma: discount factor.
        gae_lambda: GAE's lambda.
        rho_clip: upper bound of rho.
        c_clip: upper bound of c.

    Source: Schulman et al. 2016, arXiv:1506.02438; Espeholt et al. 2018, arXiv:1802.01561, eq. 1.
    """
    following_BT = bootstrap_values(value_BT1[:, 1:], final_value_BT, terminated_BT, truncated_BT)
    delta_BT = rewards_BT + gamma * following_BT - value_BT1[:, :-1]
    ends_BT = terminated_BT | truncated_BT
    rho_BT = importance_ratio_BT.clamp(max=rho_clip)
    decay_BT = gamma * gae_lambda * importance_ratio_BT.clamp(max=c_clip)
    excess_BT = carried_back(rho_BT * delta_BT, decay_BT, ends_BT)
    next_excess_BT = torch.cat([excess_BT[:, 1:], torch.zeros_like(excess_BT[:, :1])], 1).masked_fill(ends_BT, 0.0)
    return Returns(delta_BT + gamma * gae_lambda * next_excess_BT, value_BT1[:, :-1] + excess_BT)


def carried_back(own_BT: Tensor, decay_BT: Tensor, ends_BT: Tensor) -> Tensor:
    """Solve x_t = own_t + decay_t x_{t+1}, where x_{t+1} counts as 0 after an end and the last step.

    Each pass over the batch doubles the number of steps that x_t includes. With 64 steps this takes six
    passes instead of 64 sequential steps, which would take half of a small batch's preparation.
    """
    reach, steps = 1, own_BT.shape[1]
    while reach < steps:
        ahead_BT = own_BT[:, reach:] * decay_BT[:, :-reach]
        # After an end there may be NaN, which a decay of 0 would not remove.
        ahead_BT = ahead_BT.masked_fill(ends_BT[:, :-reach], 0.0)
        decay_ahead_BT = decay_BT[:, :-reach] * decay_BT[:, reach:]
        ends_ahead_BT = ends_BT[:, :-reach] | ends_BT[:, reach:]
        own_BT = torch.cat([own_BT[:, :-reach] + ahead_BT, own_BT[:, -reach:]], 1)
        decay_BT = torch.cat([decay_ahead_BT, decay_BT[:, -reach:]], 1)
        ends_BT = torch.cat([ends_ahead_BT, ends_BT[:, -reach:]], 1)
        reach *= 2
    return own_BT


def retrace(
    *,
    rewards_BT: Tensor,
    terminated_BT: Tensor,
    truncated_BT: Tensor,
    q_taken_BT: Tensor,
    expected_q_BT: Tensor,
    final_value_BT: Tensor,
    bootstrap_value_B: Tensor,
    importance_ratio_BT: Tensor,
    gamma: float,
    retrace_lambda: float,
) -> Tensor:
    """Retrace's return target of each step, `[B, T]`.

    G_t = r_t + gamma (1 - terminated_t) [E_pi q(s_{t+1}, .) + c_{t+1} n_t (G_{t+1} - q(s_{t+1},
    a_{t+1}))], c = lambda min(1, pi / pi_b). The last step is bootstrapped from v(s_T), a truncated
    step from its final observation.

    Args:
        rewards_BT: scaled rewards.
        terminated_BT: whether the episode terminated at t.
        truncated_BT: whether the episode was truncated at t.
        q_taken_BT: the prior network's q-values of the taken actions.
        expected_q_BT: the prior network's q-values, averaged over the prior policy.
        final_value_BT: the prior network's values of the final observations of truncated steps.
        bootstrap_value_B: the prior network's v(s_T).
        importance_ratio_BT: pi / pi_b of the taken actions, where pi is the prior policy.
        gamma: discount factor.
        retrace_lambda: Retrace's lambda.

    Source: Munos et al. 2016, arXiv:1606.02647, eq. 3 and 4.
    """
    next_value_BT = torch.cat([expected_q_BT[:, 1:], bootstrap_value_B.unsqueeze(1)], 1)
    following_BT = bootstrap_values(next_value_BT, final_value_BT, terminated_BT, truncated_BT)
    ends_BT = terminated_BT | truncated_BT
    c_BT = retrace_lambda * importance_ratio_BT.clamp(max=1)
    g_BT = torch.empty_like(rewards_BT)
    correction = torch.zeros_like(bootstrap_value_B)
    for t in range(rewards_BT.shape[1] - 1, -1, -1):
        g_BT[:, t] = rewards_BT[:, t] + gamma * (following_BT[:, t] + correction.masked_fill(ends_BT[:, t], 0.0))
        correction = c_BT[:, t] * (g_BT[:, t] - q_taken_BT[:, t])
    return g_BT
