"""State machines of both ends of each channel; no sockets."""
