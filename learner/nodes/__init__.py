"""What the losses share: the network's outputs, returns and masks."""
