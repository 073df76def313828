"""Small tasks with known answers: `python -m benchmarks.tabular [--seeds 5] [--arm NAME]`.

A task is a random Markov decision process of a few states. Its values and the best policy follow from linear algebra. Each arm
trains with the real learner step in this process, and two numbers are compared with the exact ones:

- `policy`: the trained policy's value, as the part of the way from the uniform policy (0) to policy iteration's (1);
- `q`: the correlation, within states, of the model's q with the q of the policy that it predicts (the prior).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from benchmarks.learning import mean_with_interval
from benchmarks.one_process import OneProcess
from protocol.data.trajectory import Array
from runner.overrides import Layer, merged, nested, parse_assignment, resolve
from runner.settings import RunSettings

STATES, ACTIONS, GAMMA = 8, 4, 0.9
EPISODE_STEPS = 50
ENV_STEPS = 100_000
ON = {"enabled": True}
FULL = {"cmpo": ON | {"kl_coef": 1.0}, "dynamics": ON, "muesli_model": ON | {"policy_pred_coef": 1.0}}
TRIED = {"trainer": {"losses": {"ppo_actor": {"ent_coef": 1.0}}, "coef_schedules": {"ent_coef": "linear"}}}
"""A bonus that falls to 0 keeps every action in the data for a while: what is never tried, no model can know."""
ARMS: Mapping[str, Mapping[str, Any]] = {
    "baseline": TRIED,
    "full": merged(TRIED, {"trainer": {"losses": FULL}}),
    "full, model's values from the prior": merged(
        TRIED, {"trainer": {"losses": FULL | {"dynamics": ON | {"value_target": "prior_bootstrap"}}}}
    ),
    "full, model of advantages": merged(
        TRIED, {"trainer": {"losses": FULL | {"dynamics": ON | {"value_target": "advantage"}}}}
    ),
    "full, no more exploring than usual": {"trainer": {"losses": FULL}},
    "cmpo in the place of ppo_actor": {"trainer": {"losses": FULL | {"ppo_actor": {"enabled": False}}}},
}


class Task(NamedTuple):
    """A Markov decision process that never ends.

    Attributes:
        rewards: `[S, A]`.
        moves: the probabilities of the next state, `[S, A, S]`.
    """

    rewards: Array
    moves: Array

    @staticmethod
    def random(seed: int) -> Task:
        """Rewards are normal; three or so of the next states are likely."""
        rng = np.random.default_rng(seed)
        logits = 3 * rng.normal(size=(STATES, ACTIONS, STATES))
        moves = np.exp(logits - logits.max(-1, keepdims=True))
        return Task(rng.normal(size=(STATES, ACTIONS)), moves / moves.sum(-1, keepdims=True))

    def values(self, policy: Array) -> Array:
        """V of a policy `[S, A]`, exactly: (I - gamma P) V = r."""
        moves = np.einsum("sa,san->sn", policy, self.moves)
        return np.linalg.solve(np.eye(STATES) - GAMMA * moves, (policy * self.rewards).sum(-1))

    def q(self, values: Array) -> Array:
        """R + gamma E[V(next)], `[S, A]`."""
        return self.rewards + GAMMA * self.moves @ values

    def best(self) -> Array:
        """V of the best policy, by policy iteration."""
        policy = np.full((STATES, ACTIONS), 1 / ACTIONS)
        while True:
            greedy = np.eye(ACTIONS)[self.q(values := self.values(policy)).argmax(-1)]
            if (greedy == policy).all():
                return values
            policy = greedy


class TabularEnvironment(gymnasium.Env[Array, np.int64]):
    """A task as an environment: the observation is the state's one-hot vector; episodes are cut, and never end.

    Args:
        task: the seed of the task.
    """

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (STATES,), np.float32)
    action_space = gymnasium.spaces.Discrete(ACTIONS)

    def __init__(self, task: int = 0) -> None:
        self._rewards = Task.random(task).rewards
        self._sums = Task.random(task).moves.cumsum(-1)
        self._shown = np.eye(STATES, dtype=np.float32)
        self._state = self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start in a random state."""
        super().reset(seed=seed, options=options)
        self._steps = 0
        self._state = int(self.np_random.integers(STATES))
        return self._shown[self._state], {}

    def step(self, action: np.int64) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Move."""
        reward = float(self._rewards[self._state, action])
        drawn = self._sums[self._state, action].searchsorted(self.np_random.random())
        self._state = min(int(drawn), STATES - 1)
        self._steps += 1
        return self._shown[self._state], reward, False, self._steps >= EPISODE_STEPS, {}


def settings_of(arm: Mapping[str, Any], seed: int, changes: Mapping[str, Any]) -> RunSettings:
    """An arm's settings for one task, with the user's changes."""
    base = {
        "env": {"kind": "factory", "factory": "benchmarks.tabular:TabularEnvironment", "kwargs": {"task": seed}},
        "agent": {"hidden_sizes": [64, 64], "value_head": "scalar"},
        "actors": {"envs_per_actor": 32, "unroll_length": 16},
        "trainer": {
            "seed": seed,
            "total_timesteps": ENV_STEPS,
            "batch_size": 32,
            "epochs": 4,
            "minibatches": 4,
            "gamma": GAMMA,
            "optimizer": {"learning_rate": 1e-3, "schedule": "linear"},
            "losses": {"ppo_critic": {"gae_lambda": 0.9}},
        },
    }
    return resolve(base, [Layer(dict(arm)), Layer(dict(changes))])


def train(arm: Mapping[str, Any], seed: int, changes: Mapping[str, Any]) -> dict[str, float]:
    """Train on the task of this seed, and compare with the exact answers."""
    task = Task.random(seed)
    with closing(OneProcess(settings := settings_of(arm, seed, changes))) as run:
        while run.env_steps < settings.trainer.total_timesteps:
            run.step()
        context = run.updater.context
        every = torch.eye(STATES)
        with torch.inference_mode():
            policy = context.model.act(every, context.model.initial_state(STATES)).logits.softmax(-1).double().numpy()
            prior = context.prior.act(every, context.prior.initial_state(STATES)).logits.softmax(-1).double().numpy()
            reward, value = context.prior.every_action(context.prior.encode(every), torch.zeros(STATES, dtype=torch.long))
        learned = (reward + GAMMA * value).double().numpy()
    uniform, best = task.values(np.full((STATES, ACTIONS), 1 / ACTIONS)).mean(), task.best().mean()
    found = {"policy": float((task.values(policy).mean() - uniform) / (best - uniform))}
    if settings.trainer.losses.dynamics.enabled:
        exact = task.q(task.values(prior))
        centred = [q - q.mean(-1, keepdims=True) for q in (learned, exact)]
        found["q"] = float(np.corrcoef(*map(np.ravel, centred))[0, 1])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Train all arms and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="changes of all arms")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arm", action="append", choices=list(ARMS), help="an arm to train; default: all")
    given = parser.parse_intermixed_args(arguments)
    torch.set_num_threads(1)
    changes = nested(map(parse_assignment, given.settings))
    for name in given.arm or ARMS:
        found = [train(ARMS[name], seed, changes) for seed in range(given.seeds)]
        figures = [f"{key} {mean_with_interval([100 * one[key] for one in found])} %" for key in found[0]]
        print(f"{name:38} {'; '.join(figures)}", flush=True)


if __name__ == "__main__":
    main()
