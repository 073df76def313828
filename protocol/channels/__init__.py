"""What roles talk through: thin ZeroMQ sockets over the state machines of `protocol.*_peer`.

A channel belongs to one thread. No call waits longer than the seconds it is given. Addresses are as ZeroMQ writes them
(`ipc:///tmp/x/control`, `tcp://host:7302`); only the control address is ever given by hand, WELCOME tells the others.
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
