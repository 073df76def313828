"""The state machines of actors, learner and other processes on each channel, without sockets."""
