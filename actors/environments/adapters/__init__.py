"""One adapter per kind of environment; each imports the package that it wraps, so `make` loads only the one in use."""
