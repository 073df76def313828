"""The command line, and what brings oatmill to machines."""
