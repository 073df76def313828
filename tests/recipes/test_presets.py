"""The presets against what they stand for."""

from __future__ import annotations

from recipes.resolve import resolve_run


def test_a_recipe_does_not_change_the_papers_hyperparameters() -> None:
    # LunarLander's recipe has a gamma, batches and replay of its own. Hessel et al. 2021, tables 5 and 6.
    settings = resolve_run("lunar_lander", [], preset="paper", config=None, flags={}).settings
    trainer, losses = settings.trainer, settings.trainer.losses
    assert (trainer.discount, trainer.returns, losses.ppo_critic.gae_lambda) == (0.995, "retrace", 0.95)
    assert (trainer.batch_size, settings.actors.unroll_length, settings.replay.fraction) == (96, 30, 0.75)
    assert (trainer.epochs, trainer.minibatches, losses.dynamics.unroll_steps) == (1, 1, 5)
    assert (losses.prior_rate, *losses.sigma, losses.cmpo.advantage_clip, losses.cmpo.kl_coef) == (0.1, 0.99, 1e-12, 1.0, 1.0)
    assert trainer.acting_network == "prior"
