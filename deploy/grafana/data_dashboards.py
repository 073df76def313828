"""The dashboards Data path and Fleet."""

from __future__ import annotations

from deploy.grafana.panels import ZERO_IS_GOOD, Dashboard, Panel, Query, Row, Steps

LAG: Steps = ((None, "transparent"), (8.5, "yellow"), (16.5, "red"))
"""Above 8 versions there is an alert; above 16, the default of replay.max_policy_lag, data is dropped. Like the histogram's
buckets, the bounds lie between whole numbers."""


def percentiles(name: str) -> list[Query]:
    """Median, 90th and 99th percentile of a histogram."""
    form = "histogram_quantile({}, sum by (le) (rate({}_bucket[$__rate_interval])))"
    return [Query(form.format(part, name), label) for part, label in ((0.5, "median"), (0.9, "90 %"), (0.99, "99 %"))]


def averaged(gauge: str) -> str:
    """A gauge that goes up and down with each batch, averaged over a minute."""
    return f"avg_over_time({gauge}[1m])"


WAITING, CREDIT = averaged("oatmill_replay_items"), averaged("oatmill_replay_credit_items")
FILLED = f"{WAITING} / ({WAITING} + {CREDIT} > 0)"


def flow(outcomes: str) -> Query:
    """Trajectories per second, by outcome."""
    return Query(
        f'sum by (outcome) (rate(oatmill_trajectories_total{{outcome=~"{outcomes}"}}[$__rate_interval]))', "{{outcome}}"
    )


DATA_PATH = Dashboard(
    "data-path",
    "Data path",
    "The way of trajectories from the actors through the queue to the learner, and of weights back to the actors.",
    [
        Row("Queue"),
        Panel(
            "Queue and credit",
            "Trajectories that wait, and how many more actors may send (credit), over a minute. No credit: the learner limits.",
            "none",
            [
                Query(WAITING, "waiting"),
                Query(CREDIT, "credit"),
                Query("oatmill_replay_capacity_items", "capacity"),
            ],
            stacked=True,
            dashed="capacity",
        ),
        Panel(
            "Bottleneck",
            "The fraction of time in which the learner waits for data, and the filled fraction of the queue.",
            "percentunit",
            [Query("oatmill_learner_wait:share5m", "learner waits"), Query(FILLED, "queue filled")],
            high=1,
        ),
        Panel(
            "Memory",
            "Memory of the waiting trajectories, over a minute, and of the replay buffer.",
            "bytes",
            [Query(averaged("oatmill_replay_bytes"), "queue"), Query("oatmill_replay_buffer_bytes", "buffer")],
        ),
        Panel(
            "Replay buffer",
            "Trajectories that are kept to be sampled again (replay.fraction); 0 without a buffer.",
            "none",
            [Query("oatmill_replay_buffer_items", "kept"), Query("oatmill_replay_buffer_capacity_items", "capacity")],
            dashed="capacity",
        ),
        Row("Age and latency"),
        Panel(
            "Policy lag",
            "How many versions the acting policy was behind the newest one, for each batch. Data above 16 is dropped as stale.",
            "none",
            percentiles("oatmill_policy_lag_versions"),
            thresholds=LAG,
            bands=True,
        ),
        Panel(
            "Time in the queue",
            "Time from a trajectory's arrival until the learner gets it.",
            "s",
            percentiles("oatmill_replay_age_seconds"),
            log=True,
        ),
        Panel(
            "Transit",
            "Time from the end of an unroll until its arrival at the replay server.",
            "s",
            percentiles("oatmill_transit_seconds"),
            log=True,
        ),
        Panel(
            "Weights: from the hub to an actor",
            "Time until an actor has received and verified new weights.",
            "s",
            percentiles("oatmill_weights_apply_lag_seconds"),
            log=True,
        ),
        Panel(
            "Weights: from the learner to the hub",
            "Time from the learner's push until the hub has the weights.",
            "s",
            percentiles("oatmill_weights_publish_seconds"),
            log=True,
        ),
        Panel(
            "Weights sent",
            "Bytes of weights per second, to all actors together.",
            "Bps",
            [Query("sum(rate(oatmill_weights_bytes_total[$__rate_interval]))", "sent")],
        ),
        Row("Ledger"),
        Panel(
            "Trajectories in",
            "Trajectories collected by actors, accepted by the replay server, and sampled again from the replay buffer.",
            "cps",
            [flow("produced|accepted|replayed")],
        ),
        Panel(
            "Trajectories dropped",
            "Trajectories dropped in the time range, by reason; normally 0. A duplicate arrived twice and was stored once.",
            "none",
            [
                Query(
                    "sum by (outcome) (increase(oatmill_trajectories_total"
                    '{outcome=~"stale|evicted|rejected|rolled_back|duplicate|unsent_at_death"}[$__range]))',
                    "{{outcome}}",
                )
            ],
            "stat",
            thresholds=((None, "green"), (1, "yellow")),
            decimals=0,
        ),
        Panel(
            "In progress",
            "Trajectories that wait, are being sent, or are used for training; means over a minute.",
            "none",
            [Query(averaged("oatmill_trajectories_pending"), "{{place}}")],
        ),
        Panel(
            "Lost",
            "Acknowledged trajectories that the ledger cannot account for; must be 0.",
            "none",
            [Query('sum(oatmill_trajectories_total{outcome="lost"})', "lost")],
            "stat",
            thresholds=ZERO_IS_GOOD,
        ),
    ],
)

FLEET = Dashboard(
    "fleet",
    "Fleet",
    "All actors together. The page /actors of the replay server shows each actor.",
    [
        Panel(
            "Actors",
            "Number of actors that send heartbeats, and the target number.",
            "none",
            [Query("oatmill_actors_live", "live"), Query("oatmill_actors_expected", "expected")],
            dashed="expected",
        ),
        Panel(
            "Silent, slow and restarted actors",
            "Actors expired and restarted in the time range; silent and slow ones now. Many restarts: the environment fails.",
            "none",
            [
                Query("sum(increase(oatmill_actors_expired_total[$__range]))", "expired"),
                Query("sum(increase(oatmill_actor_restarts_total[$__range]))", "restarted"),
                Query("sum(oatmill_actors_silent)", "silent"),
                Query("sum(oatmill_actors_slow)", "slow"),
            ],
            "stat",
            thresholds=((None, "green"), (1, "yellow")),
            decimals=0,
        ),
        Panel(
            "Env steps per second per actor",
            "It falls when actors compete for cores or wait for credit.",
            "cps",
            [Query("sum(rate(oatmill_env_steps_total[$__rate_interval])) / (sum(oatmill_actors_live) > 0)", "per actor")],
        ),
        Panel(
            "Episodes per second",
            "Finished episodes of all actors, over five minutes, because many end together.",
            "cps",
            [Query("sum(rate(oatmill_episodes_total[5m]))", "episodes")],
        ),
        Panel(
            "Bad messages by reason",
            "Messages rejected in the time range; normally 0. The newest ones are in the run's folder quarantine.",
            "none",
            [
                Query(
                    "sum by (reason) (increase(oatmill_rejected_total[$__range])) > 0"
                    ' or label_replace(sum(increase(oatmill_rejected_total[$__range])), "reason", "all", "", "")',
                    "{{reason}}",
                )
            ],
            "stat",
            thresholds=ZERO_IS_GOOD,
            decimals=0,
        ),
        Panel(
            "Weights: from the hub to an actor",
            "Time until an actor has received and verified new weights. Until then it acts with old ones.",
            "s",
            percentiles("oatmill_weights_apply_lag_seconds"),
            log=True,
        ),
    ],
)
