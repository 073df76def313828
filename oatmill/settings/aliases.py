"""Names that Stable-Baselines3, CleanRL, Sample Factory and RLlib give to settings, and what to use here."""

from __future__ import annotations

from collections.abc import Collection, Mapping

ALIASES: Mapping[str, str] = {
    # Learning rate and optimizer
    "lr": "trainer.optimizer.learning_rate",
    "learning_rate": "trainer.optimizer.learning_rate",
    "lr_schedule": "trainer.optimizer.schedule",
    "anneal_lr": "trainer.optimizer.schedule",
    "lr_scheduler": "trainer.optimizer.schedule",
    "adam_eps": "trainer.optimizer.eps",
    "adam_beta1": "trainer.optimizer.beta1",
    "adam_beta2": "trainer.optimizer.beta2",
    "grad_clip": "trainer.max_grad_norm",
    "max_grad_norm": "trainer.max_grad_norm",
    "autocast": "trainer.precision",
    # Batches
    "n_steps": "actors.unroll_length",
    "num_steps": "actors.unroll_length",
    "rollout": "actors.unroll_length",
    "rollout_fragment_length": "actors.unroll_length",
    "max_seq_len": "actors.unroll_length",
    "n_epochs": "trainer.epochs",
    "num_epochs": "trainer.epochs",
    "update_epochs": "trainer.epochs",
    "num_sgd_iter": "trainer.epochs",
    "num_minibatches": "trainer.minibatches",
    "n_minibatches": "trainer.minibatches",
    "nminibatches": "trainer.minibatches",
    # Actors and budget
    "n_envs": "actors.envs_per_actor",
    "num_envs": "actors.envs_per_actor",
    "num_envs_per_worker": "actors.envs_per_actor",
    "num_envs_per_env_runner": "actors.envs_per_actor",
    "num_workers": "actors.count",
    "num_rollout_workers": "actors.count",
    "num_env_runners": "actors.count",
    "total_timesteps": "trainer.total_timesteps",
    "n_timesteps": "trainer.total_timesteps",
    "timesteps": "trainer.total_timesteps",
    "train_for_env_steps": "trainer.total_timesteps",
    "max_policy_lag": "replay.max_policy_lag",
    "buffer_size": "replay.buffer_size",
    # PPO
    "gamma": "trainer.gamma",
    "discount": "trainer.gamma",
    "gae_lambda": "trainer.losses.ppo_critic.gae_lambda",
    "lambda": "trainer.losses.ppo_critic.gae_lambda",
    "lambda_": "trainer.losses.ppo_critic.gae_lambda",
    "clip_range": "trainer.losses.ppo_actor.clip_coef",
    "clip_coef": "trainer.losses.ppo_actor.clip_coef",
    "clip_param": "trainer.losses.ppo_actor.clip_coef",
    "ppo_clip_ratio": "trainer.losses.ppo_actor.clip_coef",
    "clip_range_vf": "trainer.losses.ppo_critic.vf_clip_coef",
    "vf_clip_param": "trainer.losses.ppo_critic.vf_clip_coef",
    "ppo_clip_value": "trainer.losses.ppo_critic.vf_clip_coef",
    "clip_vloss": "trainer.losses.ppo_critic.clip_vloss",
    "ent_coef": "trainer.losses.ppo_actor.ent_coef",
    "entropy_coef": "trainer.losses.ppo_actor.ent_coef",
    "entropy_coeff": "trainer.losses.ppo_actor.ent_coef",
    "exploration_loss_coeff": "trainer.losses.ppo_actor.ent_coef",
    "vf_coef": "trainer.losses.ppo_critic.vf_coef",
    "value_coef": "trainer.losses.ppo_critic.vf_coef",
    "vf_loss_coeff": "trainer.losses.ppo_critic.vf_coef",
    "value_loss_coeff": "trainer.losses.ppo_critic.vf_coef",
    "norm_obs": "agent.normalise_observations",
    "normalize_observations": "agent.normalise_observations",
    "observation_filter": "agent.normalise_observations",
    "clip_obs": "agent.observation_clip",
    "norm_reward": "trainer.normalise_rewards",
    "normalize_returns": "trainer.normalise_rewards",
    "norm_adv": "trainer.losses.ppo_actor.norm_adv",
    "normalize_advantage": "trainer.losses.ppo_actor.norm_adv",
    "target_kl": "trainer.losses.ppo_actor.target_kl",
    "kl_target": "trainer.losses.ppo_actor.target_kl",
    "kl_coeff": "trainer.losses.cmpo.kl_coef",
    "vtrace_rho": "trainer.losses.ppo_critic.rho_clip",
    "vtrace_c": "trainer.losses.ppo_critic.c_clip",
    "reward_scale": "trainer.reward_scale",
    "reward_clip": "trainer.reward_clip",
    # Network
    "net_arch": "agent.hidden_sizes",
    "fcnet_hiddens": "agent.hidden_sizes",
    "encoder_mlp_layers": "agent.hidden_sizes",
    "hidden_size": "agent.hidden_sizes",
    "activation_fn": "agent.activation",
    "fcnet_activation": "agent.activation",
    "nonlinearity": "agent.activation",
    "lstm": "agent.core",
    "gru": "agent.core",
    "rnn": "agent.core",
    "use_lstm": "agent.core",
    "use_rnn": "agent.core",
    "rnn_type": "agent.core",
    "rnn_size": "agent.core_size",
    "lstm_cell_size": "agent.core_size",
    "lstm_hidden_size": "agent.core_size",
    "features_extractor_class": "agent.encoder",
    "vf_share_layers": "agent.value_trunk",
    "actor_critic_share_weights": "agent.value_trunk",
    # Environment, device and logging
    "env_id": "env.id",
    "env": "env.id",
    "env_kwargs": "env.kwargs",
    "device": "trainer.device",
    "cuda": "trainer.device",
    "num_gpus": "trainer.device",
    "num_learners": "trainer.learners",
    "tensorboard_log": "metrics.tensorboard",
    "track": "metrics.wandb",
    "with_wandb": "metrics.wandb",
    "freeze": "trainer.freeze_parts",
    "load_path": "trainer.init_from",
    "pretrained": "trainer.init_from",
    "restore_from": "trainer.init_from",
    "save_freq": "trainer.checkpoint_every",
    "save_every": "trainer.checkpoint_every",
    "checkpoint_freq": "trainer.checkpoint_every",
}
"""The setting that each name means, by the name without the groups before it."""

NOTES: Mapping[str, str] = {
    "batch": "trainer.batch_size is the number of trajectories of actors.unroll_length steps in a learner step",
    "batch_size": "trainer.batch_size is the number of trajectories of actors.unroll_length steps in a learner step",
    "train_batch_size": "trainer.batch_size is the number of trajectories of actors.unroll_length steps in a learner step",
    "minibatch_size": "trainer.minibatches is the number of parts that a batch is split into, not their size",
    "sgd_minibatch_size": "trainer.minibatches is the number of parts that a batch is split into, not their size",
    "seed": "--seed N sets both trainer.seed and actors.seed",
    "frame_stack": "env.stack is for env.kind=atari; for others, add frame_stack to env.wrappers",
    "env_framestack": "env.stack is for env.kind=atari; wrap other environments in a function and use env.kind=factory",
    "frame_skip": "env.frame_skip is for env.kind=atari; wrap other environments in a function and use env.kind=factory",
    "env_frameskip": "env.frame_skip is for env.kind=atari; wrap other environments in a function and use env.kind=factory",
    "env_wrapper": "wrap the environment in a function and use env.kind=factory env.factory=module:function",
    "with_vtrace": "V-trace is always on: trainer.returns=gae_vtrace",
    "verbose": "--log-level debug, info, warning or error sets how much is logged",
    "policy_kwargs": "the network's settings are those of the group agent, such as agent.hidden_sizes",
    "capture_video": "`oatmill eval RUN --record FILE` writes a video of a trained policy",
    "exp_name": "--run-dir DIR names the run's folder",
    "experiment": "--run-dir DIR names the run's folder",
}
"""What to say of a name that no single setting stands for."""


def advice_for(path: str, known: Collection[str]) -> str:
    """What to use instead of a name of another library, as the end of a sentence; empty if the name is not one of them.

    Args:
        path: what was typed, with or without groups, such as `lr` or `trainer.lr`.
        known: the settings that exist here.
    """
    name = path.rpartition(".")[2].lower().replace("-", "_")
    if name in NOTES:
        return NOTES[name]
    target = ALIASES.get(name, "")
    return f"it is called {target} here" if target in known else ""
