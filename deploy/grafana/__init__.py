"""Grafana's data source and dashboards; the dashboards' JSON is written by `python -m deploy.grafana.generate`."""
