"""One update of the network: inputs, objective, gradients and the optimiser."""
