"""The losses, one file each. None imports another."""
