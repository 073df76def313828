"""ZeroMQ channels between the processes of a run: sockets around the state machines of `protocol.peers`.

A channel belongs to one thread. No call waits longer than the seconds that it is given. Addresses
have ZeroMQ's form (`ipc:///tmp/x/control`, `tcp://host:7302`). A process needs only the control
address; the WELCOME message has the others.
"""

from __future__ import annotations

from protocol.channels.batch_client import BatchClient
from protocol.channels.control_client import ControlClient
from protocol.channels.trajectory_sender import TrajectorySender
from protocol.channels.weights import WeightsPublisher, WeightsReceiver
from protocol.peers.batch import Delivery
from protocol.peers.control import ControlState, Role, Welcome
from protocol.peers.trajectory import WhenFull

__all__ = [
    "BatchClient",
    "ControlClient",
    "ControlState",
    "Delivery",
    "Role",
    "TrajectorySender",
    "WeightsPublisher",
    "WeightsReceiver",
    "Welcome",
    "WhenFull",
]
