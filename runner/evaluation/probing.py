"""Compares a model's q of every action with the environment's: can the model rank actions, and does one action matter?

The environment's q of an action is the reward for taking it plus the discounted value, by the value head, of the observation
that follows. To take every action in the same state, the environment is made again with its seed and the actions before are
repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from actors.environments.base import Environment
from actors.environments.checks import checked_step
from actors.environments.make import make_environment
from agent.checkpoint_manifest import find_checkpoint
from agent.loading import LoadedAgent, load, readable
from learner.ranks.reduce import OneRank, Ranks
from learner.running_statistics import RewardScale
from learner.settings import TrainerSettings
from oatmill.children.worker import Answer, serve
from oatmill.errors import RunError, UserError
from protocol.data.observations import Observations, parts_of
from protocol.data.trajectory import Array
from runner.evaluation.evaluation import environment_of
from runner.evaluation.playing import begin
from runner.settings import RunSettings

PLAYED_STEPS = 200
"""Steps that are played with one seed; states are drawn from them. All actions before a state are repeated for each action."""
STATES_PER_SEED = 10


@dataclass(frozen=True)
class Probe:
    """The result of a probe.

    Attributes:
        checkpoint: folder of the checkpoint.
        states: the number of states.
        actions: the number of actions.
        spread: how much one action matters: the standard deviation of the environment's q within a state (root mean square
            over the states), divided by the standard deviation of the values between states.
        correlation: of the model's q with the environment's, both without their mean in each state; None without a model.
        same_best: the part of the states in which both have the same best action; None without a model.
    """

    checkpoint: str
    states: int
    actions: int
    spread: float
    correlation: float | None
    same_best: float | None


class State(NamedTuple):
    """A state that was reached while playing.

    Attributes:
        before: the actions before it, since the environment was made with its seed.
        observations: what is shown there, one row.
        latent: the network's latent there, `[1, H]`.
        value: its value there.
        core_state: the recurrent state after it, `[1, S]`.
    """

    before: Sequence[Array]
    observations: Observations
    latent: Tensor
    value: float
    core_state: Tensor


class Prober:
    """Computes q in two ways for the states of one environment.

    Args:
        agent: the policy, with its model.
        make: builds the environment with one copy, always with the same seed.
        trainer: the settings that it was trained with.
        factor: what rewards were multiplied by in training.
    """

    def __init__(self, agent: LoadedAgent, make: Callable[[], Environment], trainer: TrainerSettings, factor: float) -> None:
        self._agent, self._make, self._trainer, self._factor = agent, make, trainer, factor
        self._choices = range(agent.spec.spaces.action.sizes[0])

    def play(self, environment: Environment, observations: Observations, wanted: Sequence[int]) -> list[State]:
        """Play with sampled actions; the states before the wanted steps."""
        model, before, found = self._agent.model, list[Array](), list[State]()
        core_state = model.initial_state(1)
        for step in range(max(wanted) + 1):
            latent = model.encode(readable(observations, self._agent.spec.spaces.observation))
            if model.core is not None:
                latent, core_state = model.core.step(latent, core_state)
            if step in wanted:
                value = float(model.codec.value(model.value(latent)))
                found.append(State(tuple(before), observations.copy(), latent, value, core_state))
            before.append(self._agent.act_in_rows(observations))
            taken = checked_step(environment, before[-1], RunError)
            observations = taken.observations
            if (taken.terminated | taken.truncated)[0]:
                self._agent.reset()
                core_state = model.initial_state(1)
        return found

    def model_q(self, state: State) -> Array:
        """The model's q of every action, `[A]`; where it predicts advantages, up to a factor and without the state's value."""
        reward, value = self._agent.model.every_action(state.latent, torch.zeros(1, dtype=torch.long))
        advantages = self._trainer.losses.dynamics.predicts_advantages
        q: Array = (value if advantages else reward + self._trainer.discount * value)[0].numpy()
        return q

    def environment_q(self, state: State) -> Array:
        """The environment's q of every action, `[A]`."""
        return np.array([self._outcome(state, np.array([choice])) for choice in self._choices])

    def _outcome(self, state: State, action: Array) -> float:
        """The reward of an action, and the discounted value of what follows."""
        with closing(self._make()) as environment:  # anew, because a reset with the seed does not restart everyone's randomness
            observations = environment.reset()
            for taken in state.before:
                observations = checked_step(environment, taken, RunError).observations
            shown = zip(parts_of(observations), parts_of(state.observations), strict=True)
            if not all(np.array_equal(now, then) for (_, now), (_, then) in shown):
                raise UserError(
                    f"{environment.name} is not reproducible: with the same seed and the same {len(state.before)} actions "
                    "it shows something else; `oatmill probe` needs an environment whose randomness follows from its seed"
                )
            step = checked_step(environment, action, RunError)
        reward, clip = float(step.rewards[0]) * self._factor, self._trainer.reward_clip
        reward = reward if clip is None else min(max(reward, -clip), clip)
        if step.terminated[0]:
            return reward
        following = step.final_observations if step.truncated[0] else step.observations
        read = readable(following, self._agent.spec.spaces.observation)
        return reward + self._trainer.discount * float(self._agent.model.act(read, state.core_state).value)


@torch.inference_mode()
def probe(path: Path, *, states: int, seed: int, trust: bool = False) -> Probe:
    """Probe a checkpoint.

    Args:
        path: folder of a checkpoint, or a run folder (its newest checkpoint is used).
        states: the number of states.
        seed: seed of environments and actions.
        trust: run custom environment and encoder code that the checkpoint names.

    Raises:
        UserError: if there is no such checkpoint, its actions are not the choices of one agent, or the environment does not
            repeat itself with the same seed.
        RunError: if the environment fails.
    """
    checkpoint = find_checkpoint(path)
    agent = load(checkpoint, seed=seed, trust=trust)
    env = environment_of(agent, checkpoint, trust=trust)
    trainer = RunSettings.of(agent.manifest["settings"]).trainer
    spaces = agent.spec.spaces
    if spaces.action.factored or spaces.action.dimensions or spaces.masked:
        raise UserError(f"{checkpoint} has other actions than one Discrete without a mask, which `oatmill probe` needs")
    factor = reward_factor(agent, trainer)
    theirs, learned, values = list[Array](), list[Array](), list[float]()
    for line in range(math.ceil(states / STATES_PER_SEED)):
        make = partial(make_environment, env, copies=1, seed=seed + line)
        prober = Prober(agent, make, trainer, factor)
        with closing(make()) as environment:
            observations = begin(agent, environment, checkpoint)
            if environment.num_rows != 1:
                raise UserError(f"{environment.name} has {environment.num_rows} agents; `oatmill probe` needs one")
            agent.reset()
            count = min(STATES_PER_SEED, states - len(values))
            wanted = np.random.default_rng((seed, line)).choice(PLAYED_STEPS, count, replace=False)
            reached = prober.play(environment, observations, wanted.tolist())
        values += [state.value for state in reached]
        theirs += map(prober.environment_q, reached)
        learned += map(prober.model_q, reached)
    return judged(str(checkpoint), theirs, learned if trainer.losses.dynamics.predicts_q else None, values)


def judged(checkpoint: str, theirs: Sequence[Array], learned: Sequence[Array] | None, values: Sequence[float]) -> Probe:
    """Compare both q of all states.

    Args:
        checkpoint: folder of the checkpoint.
        theirs: the environment's q of each state, `[A]`.
        learned: the model's; None without a model.
        values: the value of each state.
    """
    exact = np.array(theirs)
    states, actions = exact.shape
    exact -= exact.mean(-1, keepdims=True)
    spread = float(np.sqrt(np.mean(exact**2)) / max(float(np.std(values)), np.finfo(np.float32).tiny))
    if learned is None:
        return Probe(checkpoint, states, actions, spread, None, None)
    said = np.array(learned, np.float64)
    said -= said.mean(-1, keepdims=True)
    length = float(np.linalg.norm(said) * np.linalg.norm(exact))
    correlation = float((said * exact).sum()) / length if length else 0.0
    same_best = float((said.argmax(-1) == exact.argmax(-1)).mean())
    return Probe(checkpoint, states, actions, spread, correlation, same_best)


def reward_factor(agent: LoadedAgent, trainer: TrainerSettings) -> float:
    """What the environment's rewards were multiplied by at the end of training."""
    if not trainer.normalize_returns:
        return trainer.reward_scale
    scale = RewardScale(trainer.discount, Ranks(0, 1, torch.device("cpu"), OneRank()))
    scale.load(agent.manifest.get("reward_scale"))
    return trainer.reward_scale * scale.factor


def answer_with_probe(values: Any, answer: Answer) -> None:
    """Probe, and send the result.

    Args:
        values: the arguments of `probe`.
        answer: receives the fields of `Probe`.
    """
    answer.result(asdict(probe(Path(values.pop("path")), **values)))


if __name__ == "__main__":
    serve(answer_with_probe)
