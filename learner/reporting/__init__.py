"""What a learner step reports: statistics, red flags, metrics and writers."""
