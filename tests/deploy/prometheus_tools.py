"""Prometheus's own tools, and expressions of dashboards with values for their variables."""

from __future__ import annotations

import subprocess

from tests.deploy.doctor.prometheus_server import need


def check(*command: str) -> None:
    """Run a tool, which must succeed; without it the test is skipped."""
    done = subprocess.run([need(command[0]), *command[1:]], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def of_run(expression: str, run: str) -> str:
    """A dashboard's expression as Grafana sends it, for a run without a namespace.

    Args:
        expression: PromQL with variables.
        run: the run's name; `.*` on a dashboard of several runs.
    """
    values = {"$__rate_interval": "1m", "$__range": "15m", "$namespace": ".*" if run == ".*" else "", "$job": ".*", "$run": run}
    values["$price"] = "1"
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression
