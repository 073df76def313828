"""Slow float64 transcriptions of the equations, in NumPy and loops, written apart from the code that they judge.

Where the code runs a recursion these write out the sum, so that a slip in the one is not a slip in the other.
"""

from __future__ import annotations

from math import log, sqrt

import numpy as np

from protocol.data.trajectory import Array


def vtrace_targets(
    *,
    rewards: Array,
    terminated: Array,
    truncated: Array,
    values: Array,
    final_values: Array,
    ratios: Array,
    gamma: float,
    gae_lambda: float,
    rho_clip: float,
    c_clip: float,
) -> tuple[Array, Array]:
    """Advantages and value targets as Espeholt et al. 2018, eq. 1 writes them: a sum over the steps to come.

    v_s = V_s + sum_{t >= s} (gamma lambda)^{t-s} (prod_{i=s}^{t-1} c_i) rho_t delta_t, up to the episode's end.
    """
    batch, steps = rewards.shape
    targets, advantages = np.zeros((batch, steps)), np.zeros((batch, steps))
    for b in range(batch):
        delta = np.zeros(steps)
        for t in range(steps):
            following = 0.0 if terminated[b, t] else final_values[b, t] if truncated[b, t] else values[b, t + 1]
            delta[t] = rewards[b, t] + gamma * following - values[b, t]
        for s in range(steps):
            excess, weight = 0.0, 1.0
            for t in range(s, steps):
                excess += weight * min(rho_clip, ratios[b, t]) * delta[t]
                if terminated[b, t] or truncated[b, t]:
                    break
                weight *= gamma * gae_lambda * min(c_clip, ratios[b, t])
            targets[b, s] = values[b, s] + excess
        for s in range(steps):
            advantages[b, s] = delta[s]
            if s + 1 < steps and not (terminated[b, s] or truncated[b, s]):
                advantages[b, s] += gamma * gae_lambda * (targets[b, s + 1] - values[b, s + 1])
    return advantages, targets


def retrace_targets(
    *,
    rewards: Array,
    terminated: Array,
    truncated: Array,
    q_taken: Array,
    expected_q: Array,
    final_values: Array,
    bootstrap: Array,
    ratios: Array,
    gamma: float,
    retrace_lambda: float,
) -> Array:
    """Munos et al. 2016, eq. 3: q_t + sum_{s >= t} gamma^{s-t} (prod_{i=t+1}^{s} c_i) delta_s, up to the episode's end."""
    batch, steps = rewards.shape
    result = np.zeros((batch, steps))
    for b in range(batch):
        for t in range(steps):
            total, weight = q_taken[b, t], 1.0
            for s in range(t, steps):
                if s > t:
                    weight *= gamma * retrace_lambda * min(1.0, ratios[b, s])
                following = bootstrap[b] if s == steps - 1 else expected_q[b, s + 1]
                if truncated[b, s]:
                    following = final_values[b, s]
                if terminated[b, s]:
                    following = 0.0
                total += weight * (rewards[b, s] + gamma * following - q_taken[b, s])
                if terminated[b, s] or truncated[b, s]:
                    break
            result[b, t] = total
    return result


def unroll_truth(terminated: Array, truncated: Array, mask: Array, model_steps: int) -> dict[str, Array]:
    """The masks of the latent unroll from the first end j >= t, as the specification words them."""
    batch, steps = terminated.shape
    truth = {name: np.zeros((batch, steps, model_steps), bool) for name in ("reward", "value", "absorbing", "policy")}
    for b in range(batch):
        for t in range(steps):
            j = next((i for i in range(t, steps) if terminated[b, i] or truncated[b, i]), steps)
            for k in range(1, model_steps + 1):
                last_step = min(j, steps - 1)
                counted = mask[b, t : min(t + k, steps)].all()
                real = t + k - 1 <= last_step and counted
                reached = t + k <= last_step and counted and mask[b, t + k]
                ended = real and j < steps and t + k == j + 1 and bool(terminated[b, j])
                truth["reward"][b, t, k - 1] = real
                truth["policy"][b, t, k - 1] = reached
                truth["absorbing"][b, t, k - 1] = ended
                truth["value"][b, t, k - 1] = reached or ended
    return truth


def softmax(logits: Array) -> Array:
    """Over the last axis."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def cmpo_target(prior: Array, advantage: Array, clip: float) -> Array:
    """pi(a) = prior(a) exp(clip(adv(a), -c, c)) / z, one state and action at a time (Hessel et al. 2021, eq. 7)."""
    target = np.zeros_like(prior)
    for index in np.ndindex(prior.shape[:-1]):
        weights = [p * np.exp(min(clip, max(-clip, a))) for p, a in zip(prior[index], advantage[index], strict=True)]
        target[index] = np.array(weights) / sum(weights)
    return target


def leave_one_out(advantage: Array, clip: float, z_init: float = 1.0) -> Array:
    """w_i = e_i / ((z_init + sum_{k != i} e_k) / N) for N drawn actions (Hessel et al. 2021, eq. 11 and 12)."""
    weights = np.zeros_like(advantage)
    count = advantage.shape[-1]
    for index in np.ndindex(advantage.shape[:-1]):
        e = [np.exp(min(clip, max(-clip, a))) for a in advantage[index]]
        for i in range(count):
            others = sum(e[k] for k in range(count) if k != i)
            weights[(*index, i)] = e[i] / ((z_init + others) / count)
    return weights


def kl(target: Array, policy: Array) -> Array:
    """KL(target || policy) over the last axis; 0 log 0 = 0."""
    result = np.zeros(target.shape[:-1])
    for index in np.ndindex(target.shape[:-1]):
        result[index] = sum(p * (log(p) - log(q)) for p, q in zip(target[index], policy[index], strict=True) if p > 0)
    return result


def surrogate(ratio: Array, advantage: Array, clip_coef: float) -> Array:
    """-min(r A, clip(r) A) (Schulman et al. 2017, eq. 7)."""
    result = np.zeros_like(ratio)
    for index in np.ndindex(ratio.shape):
        r, a = ratio[index], advantage[index]
        result[index] = -min(r * a, min(max(r, 1 - clip_coef), 1 + clip_coef) * a)
    return result


def beta_loo(
    *,
    policy: Array,
    behaviour: Array,
    actions: Array,
    q: Array,
    value: Array,
    returns: Array,
    sigma: float,
    clip: float,
    sizes: tuple[int, ...],
) -> Array:
    """-min(c, r) (G - q(a)) / sigma log pi(a) - sum over factors of min(c, r of the others) sum_b pi(b) (q(b) - v) / sigma.

    Gruslys et al. 2018, eq. 3, with Hessel et al. 2021, eq. 10; rows of `policy`, `behaviour` and `q` lie factor after factor.
    """
    result = np.zeros(returns.shape)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    for index in np.ndindex(returns.shape):
        taken = [start + int(choice) for start, choice in zip(starts, np.atleast_1d(actions[index]), strict=True)]
        ratios = [policy[index][column] / behaviour[index][column] for column in taken]
        correction = min(clip, float(np.prod(ratios))) * (returns[index] - q[index][taken[0]]) / sigma
        result[index] = -correction * sum(log(policy[index][column]) for column in taken)
        for factor, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            others = float(np.prod([ratio for i, ratio in enumerate(ratios) if i != factor]))
            expected = sum(policy[index][b] * (q[index][b] - value[index]) / sigma for b in range(start, start + size))
            result[index] -= min(clip, others) * expected
    return result


def squash(x: float) -> float:
    """h(x) = sgn(x) (sqrt(|x| + 1) - 1) + 0.001 x."""
    return float(np.sign(x)) * (sqrt(abs(x) + 1) - 1) + 0.001 * x


def two_hot(y: float, num_bins: int, limit: float) -> Array:
    """Probabilities on the two bins around a number whose mean is the number."""
    bins = np.linspace(-limit, limit, num_bins)
    y = min(max(y, -limit), limit)
    row = np.zeros(num_bins)
    upper = next(i for i in range(1, num_bins) if y <= bins[i])
    weight = (y - bins[upper - 1]) / (bins[upper] - bins[upper - 1])
    row[upper - 1], row[upper] = 1 - weight, weight
    return row


def masked_mean(value: Array, mask: Array) -> float:
    """Over everything where the mask holds."""
    kept = [float(v) for v, m in zip(value.ravel(), mask.ravel(), strict=True) if m]
    return sum(kept) / len(kept)


def softmax_kl(from_logits: Array, to_logits: Array) -> Array:
    """KL of two categorical distributions over the last axis: sum_a p_a ln(p_a / q_a), in nats."""
    p, q = (np.exp(x - x.max(-1, keepdims=True)) for x in (from_logits, to_logits))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    total: Array = (p * np.log(p / q)).sum(-1)
    return total


def gaussian_kl(from_row: Array, to_row: Array) -> Array:
    """KL of two diagonal normal distributions, of rows of D means and D log stds, in nats."""
    (m, s), (n, t) = (np.split(row, 2, -1) for row in (from_row, to_row))
    total: Array = (t - s + (np.exp(2 * s) + (m - n) ** 2) / (2 * np.exp(2 * t)) - 0.5).sum(-1)
    return total
