"""The dashboards Health and Losses. Thresholds follow the guide, as in learner/reporting/red_flags.py."""

from __future__ import annotations

from deploy.grafana.panels import ZERO_IS_GOOD, Dashboard, Panel, Query, Row, Steps, reported
from learner.loss_descriptor import BUILT_IN

RETURN_MEAN = (
    "delta(oatmill_episode_return_sum[5m]) / (delta(oatmill_episode_return_count[5m]) > 0)"
    " unless resets(oatmill_episode_return_count[5m]) > 0"
)
"""Over five minutes, because episodes of many environments end together, and then none for a minute or more.

The sum falls where returns are negative, which `rate` takes for a restart.
"""
STATE = (
    'min(oatmill_up{{role="{}"}}) or max(oatmill_run_stopped == 1) * 2'
    " or max(last_over_time(oatmill_run_stopped[$__range]) == 1) * 2 or vector(0)"
)
"""1 or 0 for a role; 2 for one that has left at the end of the run; 0 for one that is missing."""
RATIO_LOSSES = [name for name, descriptor in BUILT_IN.items() if descriptor.policy_ratio]
TEN_TIMES: Steps = ((None, "transparent"), (10, "red"))
ONE_TO_TEN: Steps = ((None, "yellow"), (1, "green"), (10, "red"))


def number(  # noqa: PLR0917  (the parts of a panel, in reading order)
    title: str, description: str, unit: str, expr: str, thresholds: Steps, decimals: int | None = None
) -> Panel:
    """A panel that shows one number, with its history in the background."""
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
        low=None,
    )


HEALTH = Dashboard(
    "health",
    "Health",
    "The state of a run on one page.",
    [
        Panel(
            "Roles",
            "The state of the replay server and of the learner. A role that does not answer is down, unless the run is over.",
            "none",
            [Query(STATE.format(role), role) for role in ("replay", "learner")],
            "stat",
            width=4,
            height=4,
            thresholds=((None, "red"), (1, "green"), (2, "blue")),
            texts={"0": "down", "1": "up", "2": "run over"},
            low=None,
        ),
        number(
            "Actors live",
            "The number of actors that send heartbeats, as a fraction of the target number.",
            "percentunit",
            "sum(oatmill_actors_live) / (sum(oatmill_actors_expected) > 0)",
            ((None, "red"), (0.9, "yellow"), (1, "green")),
            0,
        ),
        number(
            "Since the last learner step",
            "The time since the last learner step. Above 60 s, the learner has stopped training.",
            "s",
            "time() - max(oatmill_learner_last_update_timestamp_seconds)",
            ((None, "green"), (30, "yellow"), (60, "red")),
            1,
        ),
        number(
            "Alerts",
            "Number of the run's firing alerts.",
            "none",
            'count(ALERTS{alertstate="firing",alertname!="Watchdog"}) or vector(0)',
            ((None, "green"), (1, "yellow"), (3, "red")),
        ),
        number("Red flags", "Number of red flags that are raised now.", "none", "sum(oatmill_red_flag)", ZERO_IS_GOOD),
        number(
            "Trajectories lost",
            "Acknowledged trajectories that the ledger cannot account for; must be 0.",
            "none",
            'sum(oatmill_trajectories_total{outcome="lost"})',
            ZERO_IS_GOOD,
        ),
        number(
            "Env steps",
            "Steps per second that the replay server stores. The steps of all agents count.",
            "cps",
            "sum(rate(oatmill_env_steps_total[$__rate_interval]))",
            ((None, "blue"),),
        ),
        number(
            "Learner steps",
            "Batches per second that the learner trains on.",
            "cps",
            "sum(rate(oatmill_learner_steps_total[$__rate_interval]))",
            ((None, "blue"),),
            2,
        ),
        number(
            "Budget spent",
            "Env steps so far, as a fraction of trainer.total_timesteps.",
            "percentunit",
            "max(oatmill_progress_ratio)",
            ((None, "blue"),),
        ),
        number(
            "Mean return", "Mean return of the episodes of the last five minutes.", "short", RETURN_MEAN, ((None, "blue"),), 2
        ),
        number(
            "Explained variance",
            "How well the value head predicts returns; 1 is perfect, and below 0 it is worse than a constant prediction.",
            "short",
            f"max({reported('oatmill_explained_variance')})",
            ((None, "red"), (0, "yellow"), (0.3, "green")),
            2,
        ),
        number(
            "Policy lag, 99th percentile",
            "How many versions the acting policy was behind the newest one, over five minutes.",
            "none",
            "max(oatmill_policy_lag_versions:p99_5m)",
            ((None, "green"), (4.5, "yellow"), (8.5, "red")),
            1,
        ),
        Panel(
            "Return",
            "Mean return over five minutes, and the median of the last 100 episodes.",
            "short",
            [Query(RETURN_MEAN, "mean"), Query('oatmill_episode_return{quantile="0.5"}', "median of the last 100")],
            low=None,
        ),
        Panel(
            "Env steps per second",
            "Steps per second that the replay server stores.",
            "cps",
            [Query("sum(rate(oatmill_env_steps_total[$__rate_interval]))", "env steps")],
        ),
        Panel(
            "Red flags",
            "1 while a flag is raised; see docs/operations/alerts.md for what to do.",
            "none",
            [Query("max by (flag) (oatmill_red_flag)", "{{flag}}")],
            "state-timeline",
            thresholds=ZERO_IS_GOOD,
            texts={"0": "no", "1": "raised"},
        ),
        Panel(
            "Firing alerts",
            "The run's firing alerts by name. Watchdog always fires, which shows that alerts are evaluated.",
            "none",
            [
                Query(
                    'count by (alertname) (ALERTS{alertstate="firing",alertname!="Watchdog"})'
                    ' or label_replace(0 * count(oatmill_build_info), "alertname", "of this run", "", "")',
                    "{{alertname}}",
                ),
                Query(
                    'count by (alertname) (ALERTS{alertstate="firing",alertname="Watchdog"})', "{{alertname}}", every_run=True
                ),
            ],
            "state-timeline",
            thresholds=ZERO_IS_GOOD,
        ),
    ],
)

LOSSES = Dashboard(
    "losses",
    "Losses",
    "The size of each loss: raw, weighted, its share of the values and of the gradients, and relative to PPO's actor loss.",
    [
        Row("Which loss trains the network"),
        Panel(
            "Share of the gradient",
            "Each loss's share of the sum of gradient norms on the trunk. This shows which loss affects training.",
            "percentunit",
            [Query("oatmill_loss_gradient_share > 0", "{{loss}}")],
            stacked=True,
            high=1,
        ),
        Panel(
            "Share of the objective by value",
            "Each loss's share of the sum of weighted magnitudes over five minutes. Values can mislead: see the gradients.",
            "percentunit",
            [Query("loss:oatmill_loss_share:mean5m", "{{loss}}")],
            stacked=True,
            high=1,
        ),
        Panel(
            "Gradient relative to PPO's actor loss",
            f"Gradient norm divided by the policy gradient's. The green range, 1 to 10, is for {', '.join(RATIO_LOSSES)}.",
            "sci",
            [Query("loss:oatmill_loss_gradient_ratio_to_policy:last", "{{loss}}")],
            log=True,
            thresholds=ONE_TO_TEN,
            bands=True,
        ),
        Panel(
            "Value relative to PPO's actor loss",
            "Weighted magnitude divided by that of the policy term. For PPO's critic, 50 to 800 is normal.",
            "sci",
            [Query("loss:oatmill_loss_ratio_to_policy:mean5m", "{{loss}}")],
            log=True,
        ),
        Panel(
            "Value and gradient relative to the median",
            "A loss dominates if both lines are above 10. The dashed line is the gradient. A cross-entropy counts with its KL.",
            "sci",
            [
                Query("loss:oatmill_loss_times_median:mean5m", "{{loss}} value"),
                Query("loss:oatmill_loss_gradient_times_median:last", "{{loss}} gradient"),
            ],
            dashed="{{loss}} gradient",
            empty="It needs three enabled losses.",
            log=True,
            thresholds=TEN_TIMES,
            bands=True,
        ),
        Panel(
            "Gradient norm on the trunk",
            "Norm of each weighted loss's gradient before clipping, and of the whole gradient over all parameters.",
            "sci",
            [Query("oatmill_loss_gradient_norm > 0", "{{loss}}"), Query(reported("oatmill_gradient_norm"), "whole gradient")],
            log=True,
        ),
        Row("Values"),
        Panel(
            "Weighted",
            "The contribution of each loss to the objective at the last report.",
            "short",
            [Query(reported("loss:oatmill_loss_weighted:last"), "{{loss}}")],
            low=None,
        ),
        Panel(
            "Weighted magnitude",
            "Mean over all updates between two points. It is computed from counters, so it includes updates between scrapes.",
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
            [Query(reported("oatmill_loss and (oatmill_loss_coefficient != 0)"), "{{loss}} {{term}}")],
            low=None,
        ),
        Panel(
            "Coefficients, by term",
            "Magnitude of each term's coefficient. on_red_flag=reduce and on_red_flag=balance change coefficients.",
            "sci",
            [Query("abs(oatmill_loss_coefficient != 0)", "{{loss}} {{term}}")],
            log=True,
        ),
        Row("Cross-entropies and their minimum"),
        Panel(
            "Cross-entropy and its minimum",
            "The target's entropy (dashed) is the minimum. The difference is the KL, which training can reduce.",
            "short",
            [
                Query('oatmill_loss{term="cross_entropy"} != 0', "{{loss}}"),
                Query('oatmill_loss{term="target_entropy"} != 0', "{{loss}} minimum"),
            ],
            dashed="{{loss}} minimum",
            empty="No enabled loss is a cross-entropy.",
            low=None,
        ),
        Panel(
            "KL to the target",
            "The part of the cross-entropies that training can still reduce, in nats.",
            "short",
            [Query(reported('oatmill_loss{term="kl"} and on (namespace, run, loss) oatmill_loss_info'), "{{loss}}")],
            empty="No enabled loss is a cross-entropy.",
            low=None,
        ),
        Panel(
            "Updates that were not finite",
            "Updates in the time range that all ranks skipped because a loss or a gradient was not finite; must be 0.",
            "none",
            [Query("max(increase(oatmill_loss_nonfinite_total[$__range]))", "updates")],
            "stat",
            thresholds=ZERO_IS_GOOD,
            decimals=0,
        ),
    ],
)
