"""The dashboard Learning. Thresholds follow the guide, as in learner/reporting/red_flags.py."""

from __future__ import annotations

from deploy.grafana.panels import Dashboard, Panel, Query, Steps, reported
from deploy.grafana.training_dashboards import RETURN_MEAN

ENTROPY_BANDS: Steps = ((None, "red"), (0.198, "yellow"), (0.396, "green"), (0.593, "yellow"), (0.791, "red"))
"""1, 2, 3 and 4 nats as fractions of ln 157 nats, the largest entropy with the guide's 157 actions."""
WITH_CMPO = 'and on (namespace, run) oatmill_loss_info{loss="cmpo"}'

LEARNING = Dashboard(
    "learning",
    "Learning",
    "Whether the policy improves, and whether training is stable.",
    [
        Panel(
            "Return",
            "Mean return over five minutes; lowest, median and highest of the last 100; the evaluator's, if there is one.",
            "short",
            [
                Query(RETURN_MEAN, "mean"),
                Query('oatmill_episode_return{quantile="0.0"}', "lowest"),
                Query('oatmill_episode_return{quantile="0.5"}', "median"),
                Query('oatmill_episode_return{quantile="1.0"}', "highest"),
                Query("oatmill_eval_return", "evaluator, {{policy}}"),
            ],
            low=None,
        ),
        Panel(
            "The environment's own numbers",
            "Numbers in the info of an episode's last step, such as is_success; means over the last 100 episodes.",
            "short",
            [Query("oatmill_episode_info", "{{name}}")],
            empty="This environment reports no numbers.",
            low=None,
        ),
        Panel(
            "Episode length",
            "Shortest, median and longest of the last 100 episodes, in steps.",
            "short",
            [
                Query('oatmill_episode_length{quantile="0.0"}', "shortest"),
                Query('oatmill_episode_length{quantile="0.5"}', "median"),
                Query('oatmill_episode_length{quantile="1.0"}', "longest"),
            ],
        ),
        Panel(
            "Entropy relative to uniform",
            "Fraction of a uniform policy's entropy. The guide's bands: green 2 to 3 nats of ln 157, red below 1 and above 4.",
            "percentunit",
            [Query(reported("oatmill_policy_entropy_ratio >= 0"), "entropy")],
            empty="There is no uniform policy over continuous actions.",
            thresholds=ENTROPY_BANDS,
            bands=True,
            high=1,
        ),
        Panel(
            "Entropy in nats",
            "Mean entropy of the policy. With continuous actions it is a differential entropy, which falls below 0.",
            "short",
            [Query(reported("oatmill_policy_entropy_nats"), "entropy")],
            low=None,  # below 0 for concentrated continuous actions
        ),
        Panel(
            "Log std of continuous actions",
            "Mean, smallest and largest over the numbers of an action; only for policies with continuous actions.",
            "short",
            [
                Query(reported('oatmill_policy_log_std{statistic="mean"}'), "mean"),
                Query(reported('oatmill_policy_log_std{statistic="min"}'), "smallest"),
                Query(reported('oatmill_policy_log_std{statistic="max"}'), "largest"),
            ],
            empty="This policy has no continuous actions.",
            low=None,
        ),
        Panel(
            "Explained variance",
            "1 is perfect, 0 is as good as a constant, and below 0 is worse. A solved task may show negative values.",
            "short",
            [Query(reported("oatmill_explained_variance"), "explained variance")],
            thresholds=((None, "red"), (0, "yellow"), (0.3, "green")),
            bands=True,
            high=1,
            low=None,
        ),
        Panel(
            "Steps that a return uses",
            "The sum of the weights of a return's steps. Data of older policies shortens returns.",
            "short",
            [
                Query('oatmill_return_steps{data="on_policy"}', "if all data were on-policy"),
                Query('oatmill_return_steps{data="fresh"}', "fresh"),
                Query('oatmill_return_steps{data="replayed"}', "replayed"),
            ],
        ),
        Panel(
            "KL of a learner step",
            "How much the updates of one batch changed the policy. The return often falls after values above 0.1.",
            "short",
            [Query(reported("oatmill_approx_kl"), "KL")],
            thresholds=((None, "transparent"), (0.1, "red")),
            bands=True,
        ),
        Panel(
            "Clipped steps",
            "Fraction of steps whose ratio is outside PPO's clip range; 0.05 to 0.3 is usual.",
            "percentunit",
            [Query(reported("oatmill_clip_ratio"), "clipped")],
        ),
        Panel(
            "CMPO's advantages",
            "Advantages divided by sigma and temperature: mean and spread within states. No effect at a spread of 0.",
            "short",
            [
                Query(reported(f"oatmill_cmpo_advantage_{key} {WITH_CMPO}"), name)
                for key, name in (("mean", "mean"), ("std", "spread"))
            ],
            low=None,
            empty="CMPO is not enabled.",
        ),
        Panel(
            "Learning rate",
            "Learning rate of the last learner step.",
            "sci",
            [Query(reported("oatmill_learning_rate"), "learning rate")],
        ),
        Panel(
            "Policy version",
            "The policy version that was published last. It never decreases.",
            "none",
            [Query("oatmill_policy_version", "version")],
            low=None,
        ),
    ],
)
