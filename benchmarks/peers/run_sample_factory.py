"""Sample Factory's APPO on the CPU, with two asynchronous rollout workers as in its documentation; CartPole, cogs or Pong."""

import tempfile
import time
from importlib.metadata import version

import gymnasium
from common import SETTINGS, options, tell
from sample_factory.algo.runners.runner import AlgoObserver
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import make_runner


def make_env(name, cfg, env_config, render_mode=None):  # noqa: ARG001  (the peer's signature)
    """The environment itself."""
    return gymnasium.make(name, render_mode=render_mode)


def arguments(chosen, folder, changes):
    """The command line of Sample Factory."""
    s = SETTINGS
    pairs = {
        "env": s["environment"],
        "experiment": "peer",
        "train_dir": folder,
        "device": "cpu",
        "seed": chosen.seed,
        "train_for_env_steps": chosen.steps,
        "num_workers": s["workers"],
        "num_envs_per_worker": s["envs"] // s["workers"],
        "worker_num_splits": 2,
        "rollout": s["unroll"],
        "recurrence": 1,
        "use_rnn": False,
        "batch_size": s["unroll"] * s["batch_trajectories"] // s["minibatches"],
        "num_batches_per_epoch": s["minibatches"],
        "num_epochs": s["epochs"],
        "learning_rate": s["learning_rate"],
        "lr_schedule": "constant",
        "gamma": s["gamma"],
        "gae_lambda": s["gae_lambda"],
        "ppo_clip_ratio": s["clip"],
        "exploration_loss_coeff": s["entropy"],
        "value_loss_coeff": s["value"],
        "max_grad_norm": s["max_grad_norm"],
        "reward_scale": s["reward_scale"],
        "nonlinearity": s["activation"],
        "normalize_input": False,
        "normalize_returns": False,
        "with_vtrace": False,
        "async_rl": True,
        "serial_mode": False,
        "with_wandb": False,
        "save_every_sec": 3600,
        "experiment_summaries_interval": 1,
        "stats_avg": 100,
        **changes,
    }
    sizes = [str(size) for size in s["hidden_sizes"]]
    layers = ["--encoder_mlp_layers", *sizes, "--encoder_conv_mlp_layers", *sizes]
    return [f"--{name}={value}" for name, value in pairs.items()] + layers


def main():
    """Train, and record every training step, because the peer's own frames per second include the start-up."""
    chosen = options()
    changes, returned, told = prepare()
    with tempfile.TemporaryDirectory() as folder:
        parser, _ = parse_sf_args(arguments(chosen, folder, changes))
        cfg = parse_full_cfg(parser, arguments(chosen, folder, changes))
        cfg, runner = make_runner(cfg)
        seen = []
        runner.register_observer(Watch(seen))
        runner.init()
        runner.run()
        stats = runner.policy_avg_stats.get(returned)
        returns = list(stats[0]) if stats else []
        steps = sum(runner.env_steps.values())
    first = next(((when, count) for when, count in seen if count > 0), None)
    last = max(seen, default=None, key=lambda one: one[1])
    rate = (last[1] - first[1]) / (last[0] - first[0]) if first and last and last[0] > first[0] else 0.0
    tell(peer="sample-factory", steps_per_s=rate, env_steps=steps, **{"return": sum(returns) / max(1, len(returns))}, **told)


def prepare():
    """Register environment and network.

    Returns:
        Changes of the command line, the name of the statistic with the returns, and further results to print.
    """
    if SETTINGS["environment"] == "pong":
        import pong_for_sample_factory as pong  # noqa: PLC0415  (needs ale_py)

        register_env(SETTINGS["environment"], pong.make_env)
        return pong.ARGUMENTS, "reward", {}
    if "agents" not in SETTINGS:
        register_env(SETTINGS["environment"], make_env)
        return {}, "reward", {}
    import cogs_for_sample_factory as cogs  # noqa: PLC0415  (needs MettaGrid, which CartPole does not)

    register_env(SETTINGS["environment"], cogs.make_env)
    cogs.register_encoder()
    return cogs.ARGUMENTS, "true_objective", {"mettagrid": version("mettagrid")}


class Watch(AlgoObserver):
    """Records the number of env steps after every training step.

    Args:
        seen: a list for pairs of time and env steps.
    """

    def __init__(self, seen):
        self.seen = seen

    def on_training_step(self, runner, training_iteration_since_resume):  # noqa: ARG002  (the peer's signature)
        """Called after each training step."""
        self.seen.append((time.perf_counter(), sum(runner.env_steps.values())))


if __name__ == "__main__":  # some peers start their workers by importing this file again
    main()
