"""The learner's reports: statistics, red flags, metrics and writers."""
