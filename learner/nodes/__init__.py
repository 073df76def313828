"""Inputs that several losses share: the network's outputs, returns and masks."""
