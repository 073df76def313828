"""Grafana's data source and dashboards. `python -m deploy.grafana.generate` writes the dashboards' JSON files."""
