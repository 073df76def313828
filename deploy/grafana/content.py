"""All dashboards, in reading order."""

from __future__ import annotations

from deploy.grafana.data_dashboards import DATA_PATH, FLEET
from deploy.grafana.learning_dashboard import LEARNING
from deploy.grafana.overview_dashboard import OVERVIEW
from deploy.grafana.panels import Dashboard
from deploy.grafana.process_dashboard import PROCESS
from deploy.grafana.runs_dashboard import RUNS
from deploy.grafana.training_dashboards import HEALTH, LOSSES

DASHBOARDS: tuple[Dashboard, ...] = (OVERVIEW, RUNS, HEALTH, LOSSES, LEARNING, DATA_PATH, FLEET, PROCESS)
