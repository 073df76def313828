"""Names of the files in a run folder that several packages write or read."""

from __future__ import annotations

CONFIG_FILE = "config.yaml"
"""All settings of the run."""
METRICS_FILE = "metrics.jsonl"
"""One line of JSON for each report of the learner."""
EVENTS_FILE = "events.jsonl"
"""One line of JSON for each event, in the order in which they happened."""
LEARNER_FILE = "learner.json"
"""The learner's part of the summary. It exists if the learner has ended in order."""
SUMMARY_FILE = "summary.json"
"""The result of the run."""
