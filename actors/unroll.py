"""Collects unrolls: T steps of all rows under one policy version, as one block of trajectories."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from actors.environments.base import Environment, Episode, Step
from actors.environments.checks import check_block, stepped, warn_of_equal_streams
from actors.policy import Acted, ActingPolicy
from oatmill.errors import UserCodeError
from protocol.data.observations import Observations, concatenated, zeros
from protocol.data.trajectory import Array, TrajectoryBlock

LOOK_STEPS = 9
"""The first steps of a run in which copies are compared, to find copies that are all equal."""


@dataclass(frozen=True)
class _Buffers:
    """The arrays that every step writes; all unrolls share them, as blocks are copied when sent."""

    observations: Observations
    actions: Array
    rewards: Array
    terminated: Array
    truncated: Array
    valid: Array
    behaviour_logits: Array
    behaviour_value: Array

    @staticmethod
    def of(environment: Environment, steps: int) -> _Buffers:
        rows, spaces = environment.num_rows, environment.spaces
        action = spaces.action
        return _Buffers(
            observations=zeros(spaces.observation, rows, steps + 1),
            actions=np.zeros((rows, steps, *action.shape), action.dtype),
            rewards=np.zeros((rows, steps), np.float32),
            terminated=np.zeros((rows, steps), np.bool_),
            truncated=np.zeros((rows, steps), np.bool_),
            valid=np.zeros((rows, steps), np.bool_),
            behaviour_logits=np.zeros((rows, steps, action.num_parameters), np.float32),
            behaviour_value=np.zeros((rows, steps), np.float32),
        )


class _Finals(NamedTuple):
    """The final observations of one step's truncated rows."""

    step: int
    rows: Array
    observations: Observations


class Unroller:
    """Steps an environment with a policy and records trajectories.

    Args:
        environment: the environment, already reset.
        observations: the observations of the reset, `[N, ...]`.
        policy: chooses actions.
        unroll_length: T, the steps of a trajectory.
        discount: gamma, if rewards are normalised by the discounted return; None if not.

    Attributes:
        env_steps: the env steps of all agents since the start, including unfinished unrolls.
        episodes: the number of ended episodes since the start.
    """

    def __init__(
        self,
        environment: Environment,
        observations: Observations,
        policy: ActingPolicy,
        unroll_length: int,
        *,
        discount: float | None = None,
    ) -> None:
        self.env_steps = 0
        self.episodes = 0
        self._environment = environment
        self._policy = policy
        self._steps = unroll_length
        self._discount = discount
        self._discounted = np.zeros(environment.num_rows, np.float32)  # the episode's return so far, as `RewardScale` says
        self._buffers = _Buffers.of(environment, unroll_length)
        self._buffers.observations[:, -1] = observations
        self._finals: list[_Finals] = []
        self._episodes: list[Episode] = []
        self._is_first = True

    def collect(self, every_step: Callable[[], bool]) -> TrajectoryBlock | None:
        """Step T times.

        The next call overwrites the block's arrays.

        Args:
            every_step: called after each step; the unroll is cancelled if it returns False.

        Returns:
            The block, or None if it was cancelled.

        Raises:
            UserCodeError: if the environment raises an exception or returns a number that is not finite.
            RunError: if the policy returns a number that is not finite.
        """
        buffers = self._buffers
        core_state = self._policy.core_state
        discounted = None if self._discount is None else self._discounted.copy()
        self._finals, self._episodes = [], []
        buffers.observations[:, 0] = observations = buffers.observations[:, -1].copy()
        for t in range(self._steps):
            acted = self._policy.act(observations)
            step = stepped(self._environment, acted.executed, UserCodeError)
            self._write(t, acted, step)
            observations = step.observations
            if not every_step():
                buffers.observations[:, -1] = observations
                return None
        return self._block(core_state, discounted)

    def _write(self, t: int, acted: Acted, step: Step) -> None:
        buffers = self._buffers
        buffers.actions[:, t] = acted.actions
        buffers.behaviour_logits[:, t] = acted.logits
        buffers.behaviour_value[:, t] = acted.value
        buffers.observations[:, t + 1] = step.observations
        buffers.rewards[:, t] = step.rewards
        buffers.terminated[:, t] = step.terminated
        buffers.truncated[:, t] = step.truncated
        buffers.valid[:, t] = step.valid
        ended = step.terminated | step.truncated
        self._policy.start_anew(ended)
        if self._discount is not None:
            self._discounted = np.where(ended, np.float32(0), np.float32(self._discount) * self._discounted + step.rewards)
        if step.final_rows.size:
            self._finals.append(_Finals(t, step.final_rows.copy(), step.final_observations.copy()))
        self._episodes += step.episodes
        self.episodes += len(step.episodes)
        self.env_steps += int(np.count_nonzero(step.valid))

    def _block(self, core_state: Array, discounted: Array | None) -> TrajectoryBlock:
        space, episodes = self._environment.spaces.observation, self._episodes
        finals = [_Finals(0, np.zeros(0, np.int64), zeros(space, 0)), *self._finals]
        names = len(self._environment.episode_statistics)
        block = TrajectoryBlock(
            **vars(self._buffers),
            core_state=core_state,
            final_observations=concatenated([final.observations for final in finals]),
            discounted_return=discounted,
            final_trajectory=np.concatenate([final.rows for final in finals]).astype(np.int32),
            final_step=np.concatenate([np.full(len(final.rows), final.step, np.int32) for final in finals]),
            episode_return=np.array([episode.episode_return for episode in episodes], np.float32),
            episode_length=np.array([episode.length for episode in episodes], np.int32),
            episode_statistics=np.array([e.statistics for e in episodes], np.float32).reshape(len(episodes), names),
            policy_version=self._policy.version,
            collected_at=time.time(),
        )
        check_block(self._environment.name, block)
        if self._is_first:
            self._is_first = False
            warn_of_equal_streams(self._environment, block.observations[:, 1:LOOK_STEPS], block.rewards[:, : LOOK_STEPS - 1])
        return block
