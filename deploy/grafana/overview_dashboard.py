"""The dashboard Overview: return, speed, cost and health of a run on one page, without its losses."""

from __future__ import annotations

from dataclasses import replace

from deploy.grafana.panels import Dashboard, Panel, Steps
from deploy.grafana.training_dashboards import HEALTH, number

HOURS = '(time() - min(oatmill_process_start_time_seconds{process="hub"})) / 3600'
"""Since the replay server was started."""
LEFT = "(1 - max(oatmill_progress_ratio)) / (max(deriv(oatmill_progress_ratio[15m])) > 0)"
"""Seconds until the budget is spent, at the speed of the last quarter of an hour."""
STEPS = "sum(oatmill_env_steps_total)"
BLUE: Steps = ((None, "blue"),)
OF_HEALTH = {panel.title: panel for panel in HEALTH.panels if isinstance(panel, Panel)}

OVERVIEW = Dashboard(
    "overview",
    "Overview",
    "Is the run fine, what has it reached, when does it end, and what does it cost? Enter the price of an hour above.",
    [
        *(OF_HEALTH[title] for title in ("Roles", "Alerts", "Actors live", "Mean return", "Budget spent")),
        number("Time left", "Until the budget is spent, at the speed of the last quarter of an hour.", "s", LEFT, BLUE),
        number("Hours so far", "Since the run was started or resumed.", "none", HOURS, BLUE, 1),
        number("Env steps so far", "The steps of all agents count.", "short", STEPS, BLUE, 1),
        OF_HEALTH["Env steps"],
        number("Cost so far", "Hours so far, times the price of an hour.", "none", f"{HOURS} * $price", BLUE, 2),
        number(
            "Cost in all",
            "Cost so far and that of the time left.",
            "none",
            f"({HOURS} + {LEFT} / 3600) * $price",
            BLUE,
            2,
        ),
        number(
            "Cost of a million env steps",
            "At the speed of the last minutes.",
            "none",
            "$price / 3600 * 1e6 / (sum(rate(oatmill_env_steps_total[$__rate_interval])) > 0)",
            BLUE,
            2,
        ),
        OF_HEALTH["Return"],
        OF_HEALTH["Env steps per second"],
        replace(OF_HEALTH["Firing alerts"], width=24, height=6),
    ],
    inputs={"price": ("Price of an hour of all machines", "1")},
)
