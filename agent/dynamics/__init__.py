"""The dynamics model: from a latent state and an action to the next latent state."""
