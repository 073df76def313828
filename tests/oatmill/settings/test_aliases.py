"""Names that users of other libraries type: each is answered by the setting that it means, and none by a wrong guess."""

from __future__ import annotations

import pytest

from oatmill.settings.aliases import ALIASES, NOTES
from oatmill.settings.complaints import unknown_setting
from runner.settings_reference import all_settings, find_settings

PATHS = [entry.path for entry in all_settings()]
COMMON = {
    # Stable-Baselines3
    "learning_rate": "trainer.optimizer.learning_rate",
    "n_steps": "actors.unroll_length",
    "batch_size": "trainer.batch_size",
    "n_epochs": "trainer.epochs",
    "gamma": "trainer.gamma",
    "gae_lambda": "trainer.losses.ppo_critic.gae_lambda",
    "clip_range": "trainer.losses.ppo_actor.clip_coef",
    "clip_range_vf": "trainer.losses.ppo_critic.vf_clip_coef",
    "normalize_advantage": "trainer.losses.ppo_actor.norm_adv",
    "ent_coef": "trainer.losses.ppo_actor.ent_coef",
    "vf_coef": "trainer.losses.ppo_critic.vf_coef",
    "max_grad_norm": "trainer.max_grad_norm",
    "target_kl": "trainer.losses.ppo_actor.target_kl",
    "tensorboard_log": "metrics.tensorboard",
    "verbose": "--log-level",
    "seed": "--seed N",
    "device": "trainer.device",
    "net_arch": "agent.hidden_sizes",
    "activation_fn": "agent.activation",
    "n_envs": "actors.envs_per_actor",
    "total_timesteps": "trainer.total_timesteps",
    "frame_stack": "env.stack",
    "framestack": "env.stack",
    "log_interval": "metrics.report_every",
    "gpu": "trainer.device",
    "replay_ratio": "replay.fraction",
    "norm_obs": "agent.normalize_observations",
    "normalize_observations": "agent.normalize_observations",
    "observation_filter": "agent.normalize_observations",
    "clip_obs": "agent.observation_clip",
    "norm_reward": "trainer.normalize_returns",
    "normalize_returns": "trainer.normalize_returns",
    "buffer_size": "replay.buffer_size",
    # CleanRL and others
    "ppo_clip": "trainer.losses.ppo_actor.clip_coef",
    "value_loss_coef": "trainer.losses.ppo_critic.vf_coef",
    "lr": "trainer.optimizer.learning_rate",
    "num_envs": "actors.envs_per_actor",
    "num_steps": "actors.unroll_length",
    "anneal_lr": "trainer.optimizer.schedule",
    "num_minibatches": "trainer.minibatches",
    "update_epochs": "trainer.epochs",
    "norm_adv": "trainer.losses.ppo_actor.norm_adv",
    "clip_coef": "trainer.losses.ppo_actor.clip_coef",
    "clip_vloss": "trainer.losses.ppo_critic.clip_vloss",
    "env_id": "env.id",
    "cuda": "trainer.device",
    "track": "metrics.wandb",
    "capture_video": "--record FILE",
    # Sample Factory
    "num_workers": "actors.count",
    "num_envs_per_worker": "actors.envs_per_actor",
    "rollout": "actors.unroll_length",
    "num_epochs": "trainer.epochs",
    "ppo_clip_ratio": "trainer.losses.ppo_actor.clip_coef",
    "exploration_loss_coeff": "trainer.losses.ppo_actor.ent_coef",
    "value_loss_coeff": "trainer.losses.ppo_critic.vf_coef",
    "max_policy_lag": "replay.max_policy_lag",
    "use_rnn": "agent.core",
    "rnn_size": "agent.core_size",
    "nonlinearity": "agent.activation",
    "adam_eps": "trainer.optimizer.eps",
    "train_for_env_steps": "trainer.total_timesteps",
    "with_vtrace": "trainer.returns=gae_vtrace",
    "vtrace_rho": "trainer.losses.ppo_critic.rho_clip",
    "env_frameskip": "env.frame_skip",
    "with_wandb": "metrics.wandb",
    # RLlib
    "lambda_": "trainer.losses.ppo_critic.gae_lambda",
    "num_env_runners": "actors.count",
    "rollout_fragment_length": "actors.unroll_length",
    "train_batch_size": "trainer.batch_size",
    "sgd_minibatch_size": "trainer.minibatches",
    "num_sgd_iter": "trainer.epochs",
    "clip_param": "trainer.losses.ppo_actor.clip_coef",
    "vf_clip_param": "trainer.losses.ppo_critic.vf_clip_coef",
    "entropy_coeff": "trainer.losses.ppo_actor.ent_coef",
    "vf_loss_coeff": "trainer.losses.ppo_critic.vf_coef",
    "grad_clip": "trainer.max_grad_norm",
    "fcnet_hiddens": "agent.hidden_sizes",
    "fcnet_activation": "agent.activation",
    "use_lstm": "agent.core",
    "lstm": "agent.core",
    "lstm_cell_size": "agent.core_size",
    "vf_share_layers": "agent.value_trunk",
    "num_learners": "trainer.learners",
    "autocast": "trainer.precision",
    "batch": "trainer.batch_size",
    # Papers, and spinning-up
    "eps": "trainer.optimizer.eps",
    "tau": "trainer.losses.cmpo.prior_ema_rate",
    "workers": "actors.count",
    "clip_ratio": "trainer.losses.ppo_actor.clip_coef",
}


@pytest.mark.parametrize(("name", "answer"), COMMON.items())
def test_a_common_name_is_answered_by_what_it_is_called_here(name: str, answer: str) -> None:
    assert answer in unknown_setting(name, PATHS)
    assert f"trainer.{name}" in PATHS or answer in unknown_setting(f"trainer.{name}", PATHS)
    assert answer in unknown_setting(name.upper().replace("_", "-"), PATHS)


@pytest.mark.parametrize(("name", "answer"), COMMON.items())
def test_a_search_for_a_common_name_finds_its_setting_first(name: str, answer: str) -> None:
    if answer in PATHS:
        found = [entry.path for entry in find_settings(name)]
        assert found[0] == answer or (name in NOTES and answer in found)


def test_a_short_word_is_not_found_within_another_one() -> None:
    assert {entry.path.rpartition(".")[2] for entry in find_settings("eps")} == {"eps", "clip_coef", "variance_eps"}


def test_every_alias_names_a_setting_that_exists() -> None:
    assert set(ALIASES.values()) <= set(PATHS)


def test_a_note_names_only_settings_that_exist() -> None:
    words = {word.strip(",;").partition("=")[0] for note in NOTES.values() for word in note.split()}
    named = {word for word in words if word.partition(".")[0] in {"env", "agent", "actors", "replay", "trainer", "metrics"}}
    assert named - {"agent"} <= {*PATHS, "env.kind"}


@pytest.mark.parametrize("name", ["quux", "pixels_per_cell", "trainer.losses.cmpo.quux", "use_sde", "env.fps"])
def test_nothing_is_guessed_where_no_setting_is_near(name: str) -> None:
    assert unknown_setting(name, PATHS) == f"{name} is not a setting; `oatmill settings WORD` searches all settings"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("trainer.gama", "trainer.gamma"),
        ("batchsize", "trainer.batch_size"),
        ("trainer.optimizer.learning_rat", "trainer.optimizer.learning_rate"),
        ("actors.unroll_len", "actors.unroll_length"),
        ("trainer.losses.cmpo.kl_coeff", "trainer.losses.cmpo.kl_coef"),
    ],
)
def test_a_misspelling_is_answered_by_the_nearest_name(name: str, answer: str) -> None:
    assert unknown_setting(name, PATHS).endswith(answer) or answer in unknown_setting(name, PATHS)
