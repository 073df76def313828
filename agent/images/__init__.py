"""Images as convolutions read them."""
