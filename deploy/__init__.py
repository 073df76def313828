"""The command line, container and Ray engines, monitoring files, the doctor and the comparison."""
