"""Dashboards about the result: Health, Losses, Learning. Thresholds are the guide's, as in learner/reporting/red_flags.py."""

from __future__ import annotations

from deploy.grafana.panels import Dashboard, Panel, Query, Row, Steps

RETURN_MEAN = "rate(oatmill_episode_return_sum[$__rate_interval]) / (rate(oatmill_episode_return_count[$__rate_interval]) > 0)"
ENTROPY_BANDS: Steps = ((None, "red"), (0.198, "yellow"), (0.396, "green"), (0.593, "yellow"), (0.791, "red"))
"""1, 2, 3 and 4 of the ln 157 nats that the guide's 157 actions have at most."""
ZERO_IS_GOOD: Steps = ((None, "green"), (1, "red"))
TEN_TIMES: Steps = ((None, "transparent"), (10, "red"))
ONE_TO_TEN: Steps = ((None, "yellow"), (1, "green"), (10, "red"))


def number(  # noqa: PLR0917  (a panel's parts in the order in which they are read)
    title: str, description: str, unit: str, expr: str, thresholds: Steps, decimals: int | None = None
) -> Panel:
    """A number with its course behind it."""
    return Panel(
        title,
        description,
        unit,
        [Query(expr, title.lower())],
        "stat",
        width=4,
        height=4,
        thresholds=thresholds,
        decimals=decimals,
    )


HEALTH = Dashboard(
    "health",
    "Health",
    "Whether a run is well, on one page.",
    [
        number(
            "Roles that make progress",
            "The replay server and the learner; 2 is well.",
            "none",
            "sum(oatmill_up)",
            ((None, "red"), (2, "green")),
        ),
        number(
            "Actors live",
            "Actors that send heartbeats, of those that there shall be.",
            "percentunit",
            "sum(oatmill_actors_live) / (sum(oatmill_actors_expected) > 0)",
            ((None, "red"), (0.9, "yellow"), (1, "green")),
            0,
        ),
        number(
            "Since the last learner step",
            "Above 60 s the learner stands still.",
            "s",
            "time() - max(oatmill_learner_last_update_timestamp_seconds)",
            ((None, "green"), (30, "yellow"), (60, "red")),
            1,
        ),
        number(
            "Alerts",
            "Alerts that fire, without the watchdog.",
            "none",
            'count(ALERTS{alertstate="firing",alertname!="Watchdog"}) or vector(0)',
            ((None, "green"), (1, "yellow"), (3, "red")),
        ),
        number("Red flags", "Flags that the learner raises now.", "none", "sum(oatmill_red_flag)", ZERO_IS_GOOD),
        number(
            "Trajectories lost",
            "Acknowledged and in no other column of the ledger; must be 0.",
            "none",
            'sum(oatmill_trajectories_total{outcome="lost"})',
            ZERO_IS_GOOD,
        ),
        number(
            "Env steps",
            "Steps of single agents that were stored, a second.",
            "cps",
            "sum(rate(oatmill_env_steps_total[$__rate_interval]))",
            ((None, "blue"),),
        ),
        number(
            "Learner steps",
            "Batches trained on, a second.",
            "cps",
            "sum(rate(oatmill_learner_steps_total[$__rate_interval]))",
            ((None, "blue"),),
            2,
        ),
        number(
            "Budget spent", "Part of trainer.total_timesteps.", "percentunit", "max(oatmill_progress_ratio)", ((None, "blue"),)
        ),
        number("Mean return", "Mean return of the episodes that ended lately.", "short", RETURN_MEAN, ((None, "blue"),), 2),
        number(
            "Explained variance",
            "Of the value head; below 0 it is worse than a constant.",
            "short",
            "max(oatmill_explained_variance)",
            ((None, "red"), (0, "yellow"), (0.3, "green")),
            2,
        ),
        number(
            "Policy lag, 99th percentile",
            "Versions between the policy that acted and the newest, over five minutes.",
            "none",
            "max(oatmill_policy_lag_versions:p99_5m)",
            ((None, "green"), (4, "yellow"), (8, "red")),
            1,
        ),
        Panel(
            "Return",
            "Mean of the episodes that ended lately, and the median of the last 100.",
            "short",
            [Query(RETURN_MEAN, "mean"), Query('oatmill_episode_return{quantile="0.5"}', "median of the last 100")],
        ),
        Panel(
            "Env steps a second",
            "Steps stored by the replay server.",
            "cps",
            [Query("sum(rate(oatmill_env_steps_total[$__rate_interval]))", "env steps")],
            low=0,
        ),
        Panel(
            "Red flags",
            "1 while a flag is raised; docs/operations/alerts.md says what to do.",
            "none",
            [Query("oatmill_red_flag", "{{flag}}")],
            low=0,
            high=1,
        ),
        Panel(
            "Alerts that fire",
            "By name; Watchdog fires at all times, as a sign that alerts are evaluated.",
            "none",
            [Query('count by (alertname) (ALERTS{alertstate="firing"})', "{{alertname}}")],
            low=0,
        ),
    ],
)

LOSSES = Dashboard(
    "losses",
    "Losses",
    "The magnitude of every loss: raw, weighted, its share by value and by gradient, and against PPO's actor loss.",
    [
        Row("Who pushes"),
        Panel(
            "Share of the gradient",
            "Part of the sum of the weighted losses' gradient norms on the trunk: what really pushes.",
            "percentunit",
            [Query("oatmill_loss_gradient_share > 0", "{{loss}}")],
            stacked=True,
            low=0,
            high=1,
        ),
        Panel(
            "Share of the objective by value",
            "Part of the sum of weighted magnitudes over five minutes. Values mislead: compare the gradient.",
            "percentunit",
            [Query("loss:oatmill_loss_share:mean5m", "{{loss}}")],
            stacked=True,
            low=0,
            high=1,
        ),
        Panel(
            "Times PPO's actor loss, by gradient",
            "Gradient norm over the policy gradient's. muesli_model should lie between 1 and 10 (green).",
            "sci",
            [Query("loss:oatmill_loss_gradient_ratio_to_policy:last", "{{loss}}")],
            log=True,
            thresholds=ONE_TO_TEN,
            bands=True,
        ),
        Panel(
            "Times PPO's actor loss, by value",
            "Weighted magnitude over that of the policy term. PPO's critic is healthy at 50 to 800.",
            "sci",
            [Query("loss:oatmill_loss_ratio_to_policy:mean5m", "{{loss}}")],
            log=True,
        ),
        Panel(
            "Times the median, by value and by gradient",
            "Above 10 in both a loss dominates; dashed is by gradient. A cross-entropy counts by its KL.",
            "sci",
            [
                Query("loss:oatmill_loss_times_median:mean5m", "{{loss}} value"),
                Query("loss:oatmill_loss_gradient_times_median:last", "{{loss}} gradient"),
            ],
            dashed="{{loss}} gradient",
            log=True,
            thresholds=TEN_TIMES,
            bands=True,
        ),
        Panel(
            "Gradient norm on the trunk",
            "Of each weighted loss, before clipping, and of the whole gradient over all parameters.",
            "sci",
            [Query("oatmill_loss_gradient_norm > 0", "{{loss}}"), Query("oatmill_gradient_norm", "whole gradient")],
            log=True,
        ),
        Row("Values"),
        Panel(
            "Weighted",
            "What each loss adds to the objective, at the last report.",
            "short",
            [Query("loss:oatmill_loss_weighted:last", "{{loss}}")],
        ),
        Panel(
            "Weighted magnitude",
            "Mean over every update since the last points, by two counters: nothing between scrapes is missed.",
            "sci",
            [
                Query(
                    "sum by (loss) (rate(oatmill_loss_abs_sum_total[$__rate_interval])"
                    " / (rate(oatmill_loss_updates_total[$__rate_interval]) > 0) * abs(oatmill_loss_coefficient != 0))",
                    "{{loss}}",
                )
            ],
            log=True,
        ),
        Panel(
            "Raw, by term",
            "Unweighted value of each term at the last report.",
            "short",
            [Query("oatmill_loss and (oatmill_loss_coefficient != 0)", "{{loss}} {{term}}")],
        ),
        Panel(
            "Coefficients, by term",
            "Magnitude of what a term is multiplied by; reduce and balance move them.",
            "sci",
            [Query("abs(oatmill_loss_coefficient != 0)", "{{loss}} {{term}}")],
            log=True,
        ),
        Row("Cross-entropies against their floor"),
        Panel(
            "muesli_model: cross-entropy and its floor",
            "The target's entropy is a floor that training cannot go below; the gap is the KL, which it can remove.",
            "short",
            [
                Query('oatmill_loss{loss="muesli_model",term="cross_entropy"}', "cross-entropy"),
                Query('oatmill_loss{loss="muesli_model",term="target_entropy"}', "floor: the target's entropy"),
            ],
            dashed="floor: the target's entropy",
        ),
        Panel(
            "cmpo: cross-entropy and its floor",
            "As for muesli_model, at the root instead of after model steps.",
            "short",
            [
                Query('oatmill_loss{loss="cmpo",term="cross_entropy"}', "cross-entropy"),
                Query('oatmill_loss{loss="cmpo",term="target_entropy"}', "floor: the target's entropy"),
            ],
            dashed="floor: the target's entropy",
        ),
        Panel(
            "KL to the target",
            "What is left of the cross-entropies to be trained away, in nats.",
            "short",
            [Query('oatmill_loss{term="kl"}', "{{loss}}")],
        ),
        Panel(
            "Updates that were not finite",
            "Not applied on any rank; must be 0.",
            "none",
            [Query("max(increase(oatmill_loss_nonfinite_total[$__rate_interval]))", "updates")],
            low=0,
        ),
    ],
)

LEARNING = Dashboard(
    "learning",
    "Learning",
    "Whether the policy gets better, and whether it does so safely.",
    [
        Panel(
            "Return",
            "Mean of the episodes that ended lately; least, median and largest of the last 100.",
            "short",
            [
                Query(RETURN_MEAN, "mean"),
                Query('oatmill_episode_return{quantile="0.0"}', "least"),
                Query('oatmill_episode_return{quantile="0.5"}', "median"),
                Query('oatmill_episode_return{quantile="1.0"}', "largest"),
            ],
        ),
        Panel(
            "Episode length",
            "Least, median and largest of the last 100 episodes, in steps.",
            "short",
            [
                Query('oatmill_episode_length{quantile="0.0"}', "least"),
                Query('oatmill_episode_length{quantile="0.5"}', "median"),
                Query('oatmill_episode_length{quantile="1.0"}', "largest"),
            ],
            low=0,
        ),
        Panel(
            "Entropy of uniform",
            "The guide's bands as fractions: red below 1 nat and above 4 of ln 157, green from 2 to 3.",
            "percentunit",
            [Query("oatmill_policy_entropy_ratio", "entropy")],
            thresholds=ENTROPY_BANDS,
            bands=True,
            low=0,
            high=1,
        ),
        Panel(
            "Entropy in nats", "Mean entropy of the policy.", "short", [Query("oatmill_policy_entropy_nats", "entropy")], low=0
        ),
        Panel(
            "Explained variance",
            "1 is perfect, 0 is a constant, below 0 is worse than one. A solved task may show negative values.",
            "short",
            [Query("oatmill_explained_variance", "explained variance")],
            thresholds=((None, "red"), (0, "yellow"), (0.3, "green")),
            bands=True,
            high=1,
        ),
        Panel(
            "KL of a learner step",
            "How far a batch's updates moved the policy; jumps above 0.1 often precede a fall of the return.",
            "short",
            [Query("oatmill_approx_kl", "KL")],
            thresholds=((None, "transparent"), (0.1, "red")),
            bands=True,
            low=0,
        ),
        Panel(
            "Clipped",
            "Part of the steps whose ratio lies outside PPO's clip; 0.05 to 0.3 is usual.",
            "percentunit",
            [Query("oatmill_clip_ratio", "clipped")],
            low=0,
        ),
        Panel(
            "CMPO's advantages",
            "Over sigma: their mean under the prior and their spread within states. A spread near 0 tilts nothing.",
            "short",
            [Query("oatmill_cmpo_advantage_mean", "mean"), Query("oatmill_cmpo_advantage_std", "spread")],
        ),
        Panel("Learning rate", "Of the last learner step.", "sci", [Query("oatmill_learning_rate", "learning rate")], low=0),
        Panel(
            "Policy version",
            "The version published last; it never goes back.",
            "none",
            [Query("oatmill_policy_version", "version")],
        ),
    ],
)
