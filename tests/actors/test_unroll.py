from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actors.environments.checks import first_observations
from actors.environments.infos import ALWAYS
from actors.environments.make import make_environment
from actors.policy import ActingPolicy
from actors.settings import EnvSettings, FactoryEnv, PettingZooEnv
from actors.unroll import Unroller
from agent.model import AgentModel, acting_arrays
from agent.settings import AgentSettings
from agent.spec import AgentSpec
from oatmill.errors import RunError, UserCodeError
from protocol.data.trajectory import Schema, TrajectoryBlock
from protocol.data.weights import Weights


def counters(**kwargs: Any) -> FactoryEnv:
    return FactoryEnv(factory="tests.actors.environments.toy_environments:Counter", kwargs=kwargs)


def fails(how: str) -> FactoryEnv:
    return FactoryEnv(factory="tests.actors.environments.toy_environments:Fails", kwargs={"how": how})


def make_unroller(
    env: EnvSettings, *, copies: int, steps: int, core: str = "none", discount: float | None = None
) -> tuple[Unroller, ActingPolicy]:
    environment = make_environment(env, copies=copies, seed=0)
    observations = first_observations(environment)
    settings = AgentSettings.model_validate({"hidden_sizes": (8,), "num_bins": 11, "core": core, "core_size": 3})
    policy = ActingPolicy(AgentSpec(environment.spaces, settings), environment.num_rows, seed=0)
    return Unroller(environment, observations, policy, steps, discount=discount), policy


def collected(unroller: Unroller) -> TrajectoryBlock:
    block = unroller.collect(lambda: True)
    assert block is not None
    return block


def test_an_unroll_contains_every_step_and_the_next_one_continues_from_its_end() -> None:
    unroller, policy = make_unroller(counters(length=3), copies=2, steps=4)
    first = collected(unroller)
    # Counters show 0 1 2, then in the step that ends the episode 0 again.
    assert first.observations[..., 0].tolist() == [[0, 1, 2, 0, 1]] * 2
    assert first.truncated.tolist() == [[False, False, True, False]] * 2
    assert not first.terminated.any()
    assert first.valid.all()
    assert first.rewards.tolist() == (1.0 + first.actions).tolist()
    assert (first.final_trajectory.tolist(), first.final_step.tolist()) == ([0, 1], [2, 2])
    assert first.final_observations.tolist() == [[3], [3]]
    assert first.episode_length.tolist() == [3, 3]
    np.testing.assert_array_equal(first.episode_return, first.rewards[:, :3].sum(1))
    assert first.episode_statistics.shape == (2, 2)  # is_success and score
    assert first.core_state.shape == (2, 0)
    assert first.policy_version == policy.version == -1
    second = collected(unroller)
    assert second.observations[..., 0].tolist() == [[1, 2, 0, 1, 2]] * 2
    assert second.final_step.tolist() == [1, 1]
    assert (unroller.env_steps, unroller.episodes) == (16, 4)


def test_an_unroll_brings_the_discounted_return_of_the_episode_before_it() -> None:
    unroller, policy = make_unroller(counters(length=3), copies=2, steps=4, discount=0.5)
    before, rewards = [], []
    for _ in range(3):
        block = collected(unroller)
        assert block.discounted_return is not None
        before.append(block.discounted_return.tolist())
        rewards.append(block.rewards.copy())
    # Episodes end after steps 3 and 6. By hand: nothing before the first unroll; step 4 before the second; steps 7 and 8, the
    # first of them halved, before the third.
    assert before == [[0, 0], rewards[0][:, 3].tolist(), (0.5 * rewards[1][:, 2] + rewards[1][:, 3]).tolist()]
    names = ("is_success", "score")
    schema = Schema.of(policy.spec.spaces, core_state_size=0, episode_statistics=names, discounted_return=True)
    packed = schema.views(schema.pack(block), block.size)
    np.testing.assert_array_equal(packed["discounted_return"], before[2])


def test_a_block_fits_the_schema_and_survives_packing() -> None:
    unroller, policy = make_unroller(counters(length=3), copies=2, steps=4, core="gru")
    block = collected(unroller)
    schema = Schema.of(policy.spec.spaces, core_state_size=3, episode_statistics=ALWAYS)
    views = schema.views(schema.pack(block), block.size)
    for name, view in views.items():
        np.testing.assert_array_equal(view, getattr(block, name))
        assert view.dtype == getattr(block, name).dtype, name
    empty = collected(make_unroller(counters(length=9), copies=2, steps=4)[0])
    assert (empty.size.finals, empty.size.episodes) == (0, 0)
    assert empty.final_observations.shape == (0, 1)


def test_what_was_recorded_is_what_the_policy_saw_and_did() -> None:
    import torch

    unroller, policy = make_unroller(counters(length=3), copies=2, steps=5, core="lstm")
    model = AgentModel(policy.spec).eval()
    model.load_state_dict({name: value * 3 for name, value in model.state_dict().items()})
    policy.load(Weights.pack(4, acting_arrays(model), "float32"))
    collected(unroller)
    block = collected(unroller)
    assert block.policy_version == 4
    assert block.core_state.any()  # the second unroll starts in the middle of an episode
    state = torch.from_numpy(block.core_state)
    for t in range(5):
        output = model.act(torch.from_numpy(block.observations[:, t].copy()), state)
        np.testing.assert_allclose(block.behaviour_logits[:, t], output.logits.numpy(), atol=1e-6)
        np.testing.assert_allclose(block.behaviour_value[:, t], output.value.numpy(), atol=1e-6)
        ended = torch.from_numpy(block.terminated[:, t] | block.truncated[:, t])
        state = output.core_state.clone() * ~ended[:, None]


def test_an_absent_agents_steps_are_not_counted_and_clear_its_recurrent_state() -> None:
    settings = PettingZooEnv(factory="tests.actors.environments.toy_parallel:Relay")
    unroller, policy = make_unroller(settings, copies=1, steps=3, core="gru")
    block = collected(unroller)
    assert block.valid.tolist() == [[True, True, False], [True, True, True], [False, True, True]]
    assert unroller.env_steps == 7
    # Of early, which left, and guest, which just has, nothing is remembered; late goes on.
    assert [bool(row.any()) for row in policy.core_state] == [False, True, False]


def test_a_cancelled_unroll_is_not_sent_and_the_next_one_continues() -> None:
    unroller, _ = make_unroller(counters(length=9), copies=1, steps=4)
    asked = iter([True, False])
    assert unroller.collect(lambda: next(asked)) is None
    assert collected(unroller).observations[0, :, 0].tolist() == [2, 3, 4, 5, 6]
    assert unroller.env_steps == 6


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (
            "raises in step",
            "env.factory=tests.actors.environments.toy_environments:Fails raised in step: RuntimeError: the physics exploded",
        ),
        ("wrong shape in step", "Fails raised in step: ValueError: expected an observation of shape (1,), got (3,)"),
        ("nan in step", "Fails gave observations that are not finite (NaN or infinity)"),
        ("infinite reward", "Fails gave rewards that are not finite (NaN or infinity)"),
    ],
)
def test_an_environment_that_fails_later_is_named(how: str, says: str) -> None:
    unroller, _ = make_unroller(fails(how), copies=1, steps=2)
    with pytest.raises(UserCodeError) as caught:
        unroller.collect(lambda: True)
    assert says in str(caught.value)


def test_a_policy_whose_numbers_are_not_finite_is_named_by_its_version() -> None:
    unroller, policy = make_unroller(counters(), copies=1, steps=2)
    arrays = {name: np.full(shape, np.nan, np.float32) for name, shape in policy.layout}
    policy.load(Weights.pack(7, arrays, "float32"))
    with pytest.raises(RunError, match="the policy of version 7 gave a behaviour_logits that is not finite"):
        unroller.collect(lambda: True)
