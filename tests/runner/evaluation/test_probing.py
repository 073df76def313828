"""The environment's q of every action against the answers by hand, what a probe reports of both q, and what it refuses."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.environments.checks import first_observations
from actors.environments.make import make_environment
from agent.checkpoint_manifest import find_checkpoint
from agent.loading import load
from oatmill.errors import UserError
from recipes import cartpole, pendulum
from runner.evaluation.probing import Prober, judged, probe, reward_factor
from runner.settings import RunSettings
from tests.runner.evaluation.probed_environments import CUT_AFTER, END
from tests.runner.evaluation.test_evaluation import save_run

FACTORY = "tests.runner.evaluation.probed_environments:Corridor"


def settings_of(*, model: bool = True, core: str = "none", value_target: str = "return", **kwargs: Any) -> RunSettings:
    dynamics = {"enabled": model, "value_target": value_target}
    trainer = {"gamma": 0.5, "reward_scale": 0.25, "losses": {"dynamics": dynamics}}
    env = {"kind": "factory", "factory": FACTORY, "kwargs": kwargs}
    return RunSettings.of({"env": env, "agent": {"hidden_sizes": [8], "core": core, "core_size": 4}, "trainer": trainer})


@pytest.mark.parametrize("core", ["none", "gru"])
def test_q_of_every_action_is_that_of_the_same_state(tmp_path: Path, core: str) -> None:
    settings = settings_of(core=core)
    agent = load(find_checkpoint(save_run(tmp_path, settings)), trust=True)
    with torch.no_grad():
        for parameter in agent.model.parameters():
            parameter.normal_()
    model, trainer = agent.model, settings.trainer
    make = partial(make_environment, settings.env, copies=1, seed=3)
    prober = Prober(agent, make, trainer, reward_factor(agent, trainer))
    environment = make()
    with torch.inference_mode():
        states = prober.play(environment, first_observations(environment), range(40))
        assert len(states) == 40
        ends = 0
        for state in states:
            place = state.observations[0, 0]
            expected = []
            for reward, following in ((1.0, place - 1), (0.5 * place, place + 1)):
                shown = torch.tensor([[following, 0.0]])
                value = 0.0 if following == END else float(model.act(shown, state.core_state).value)
                ends += following == END
                expected.append(0.25 * reward + 0.5 * value)
            np.testing.assert_allclose(prober.environment_q(state), expected, rtol=1e-5)
            output = model.act(torch.from_numpy(state.observations), model.initial_state(1))
            if core == "none":
                assert state.value == pytest.approx(float(output.value))
                rewards, values = model.every_action(state.latent, torch.zeros(1, dtype=torch.long))
                np.testing.assert_allclose(prober.model_q(state), (rewards + 0.5 * values)[0].numpy(), rtol=1e-6)
    assert ends, "some action ended the episode"
    assert max(len(state.before) for state in states) > CUT_AFTER, "some state came after the end of an episode"


def test_a_model_of_advantages_ranks_actions_by_them(tmp_path: Path) -> None:
    settings = settings_of(value_target="advantage")
    agent = load(find_checkpoint(save_run(tmp_path, settings)), trust=True)
    with torch.no_grad():
        for parameter in agent.model.parameters():
            parameter.normal_()
    make = partial(make_environment, settings.env, copies=1, seed=3)
    prober = Prober(agent, make, settings.trainer, 1.0)
    environment = make()
    with torch.inference_mode():
        (state,) = prober.play(environment, first_observations(environment), [5])
        _, advantages = agent.model.every_action(state.latent, torch.zeros(1, dtype=torch.long))
        np.testing.assert_array_equal(prober.model_q(state), advantages[0].numpy())


def test_both_q_are_compared_within_states_only() -> None:
    exact = [np.array([1.0, 3.0]), np.array([10.0, 6.0])]
    # Within states (-1, 1) and (2, -2): a root mean square of sqrt(10 / 4). The model has (-2, 2) and (-1, 1).
    learned = [np.array([5.0, 9.0]), np.array([-3.0, -1.0])]
    found = judged("here", exact, learned, [0.0, 4.0])
    assert (found.states, found.actions, found.same_best) == (2, 2, 0.5)
    assert found.spread == pytest.approx(2.5**0.5 / 2)
    assert found.correlation == pytest.approx((2 + 2 - 2 - 2) / (10**0.5 * 10**0.5))
    assert judged("here", exact, None, [0.0, 4.0]).correlation is None
    assert judged("here", exact, [np.zeros(2), np.zeros(2)], [0.0, 4.0]).correlation == 0.0


def test_a_run_is_probed_and_one_seed_gives_one_result(tmp_path: Path) -> None:
    run = save_run(tmp_path, settings_of())
    first, again = (probe(run, states=12, seed=1, trust=True) for _ in range(2))
    assert first == again
    assert (first.states, first.actions) == (12, 2)
    assert first.correlation is not None
    (tmp_path / "no model").mkdir()
    other = probe(save_run(tmp_path / "no model", settings_of(model=False)), states=2, seed=1, trust=True)
    assert (other.correlation, other.same_best) == (None, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (settings_of(repeats=False), "is not reproducible: with the same seed and the same"),
        (pendulum.settings(), "has other actions than one Discrete without a mask"),
    ],
)
def test_what_cannot_be_probed_is_refused_in_one_line(tmp_path: Path, settings: RunSettings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        probe(save_run(tmp_path, settings), states=4, seed=0, trust=True)


def test_code_that_a_checkpoint_names_runs_only_if_trusted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--trust"):
        probe(save_run(tmp_path, settings_of()), states=4, seed=0)


def test_rewards_are_scaled_as_in_training(tmp_path: Path) -> None:
    settings = cartpole.settings()
    assert reward_factor(load(find_checkpoint(save_run(tmp_path, settings))), settings.trainer) == settings.trainer.reward_scale
    agent = load(find_checkpoint(tmp_path))
    settings.trainer.normalize_returns = True
    # The squares of 4 returns add up to 36: a variance of 9, a deviation of 3.
    agent.manifest["reward_scale"] = {"count": 4.0, "mean": 1.0, "squares": 36.0}
    assert reward_factor(agent, settings.trainer) == pytest.approx(settings.trainer.reward_scale / 3)
