"""The dashboard Runs: several runs beside each other."""

from __future__ import annotations

from deploy.grafana.panels import Dashboard, Panel, Query, reported
from deploy.grafana.training_dashboards import RETURN_MEAN

RUN = "{{namespace}} {{run}}"
STATE = (
    "max by (namespace, run) (oatmill_run_stopped == 1) * 3 or sum by (namespace, run) (oatmill_up)"
    " or max by (namespace, run) (last_over_time(oatmill_run_stopped[$__range]) == 1) * 3"
    " or 0 * count by (namespace, run) (last_over_time(oatmill_build_info[$__range]))"
)
"""The number of healthy roles, 3 if the run is over, and 0 for one whose roles are all gone before that."""


def by_run(expr: str) -> list[Query]:
    """A query whose result has one series for each run. Every `BY` of the expression is replaced."""
    return [Query(expr.replace("BY", "by (namespace, run)"), RUN)]


RUNS = Dashboard(
    "runs",
    "Runs",
    "Runs beside each other. Choose them above; the other dashboards show one run.",
    [
        Panel(
            "State",
            "A run is healthy if both its replay server and its learner are.",
            "none",
            [Query(STATE, RUN)],
            "stat",
            width=24,
            height=4,
            thresholds=((None, "red"), (2, "green"), (3, "blue")),
            texts={"0": "down", "1": "a role is down", "2": "healthy", "3": "over"},
            low=None,
        ),
        Panel(
            "Return",
            "Mean return of the episodes of the last five minutes.",
            "short",
            by_run(f"max BY ({RETURN_MEAN})"),
            low=None,
        ),
        Panel(
            "Budget spent",
            "Env steps so far, as a fraction of trainer.total_timesteps.",
            "percentunit",
            by_run("max BY (oatmill_progress_ratio)"),
            high=1,
        ),
        Panel(
            "Env steps per second",
            "Steps per second that the replay server stores.",
            "cps",
            by_run("sum BY (rate(oatmill_env_steps_total[$__rate_interval]))"),
        ),
        Panel(
            "Learner waits",
            "The fraction of time in which the learner waits for data.",
            "percentunit",
            by_run("max BY (oatmill_learner_wait:share5m)"),
            high=1,
        ),
        Panel(
            "Entropy relative to uniform",
            "Fraction of a uniform policy's entropy.",
            "percentunit",
            by_run(f"max BY ({reported('oatmill_policy_entropy_ratio')})"),
            high=1,
        ),
        Panel(
            "Explained variance",
            "1 is perfect, 0 is as good as a constant, and below 0 is worse.",
            "short",
            by_run(f"max BY ({reported('oatmill_explained_variance')})"),
            high=1,
            low=None,
        ),
        Panel(
            "Missing actors",
            "The target number of actors, minus those that send heartbeats, until the run is over.",
            "none",
            by_run("sum BY (oatmill_actors_expected) - sum BY (oatmill_actors_live) unless max BY (oatmill_run_stopped == 1)"),
            low=None,
        ),
        Panel("Red flags", "Number of red flags that are raised.", "none", by_run("sum BY (oatmill_red_flag)")),
        Panel(
            "Share of the gradient: $run",
            "Each loss's share of the sum of gradient norms on the trunk, for each chosen run.",
            "percentunit",
            [Query("oatmill_loss_gradient_share > 0", "{{loss}}")],
            width=24,
            stacked=True,
            high=1,
            repeat="run",
        ),
    ],
    several=True,
)
