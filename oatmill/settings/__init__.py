"""Settings: the base class, error messages, flat names and YAML."""
