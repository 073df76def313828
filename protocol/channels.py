"""What roles talk through: thin ZeroMQ sockets over the state machines of `protocol.*_peer`.

A channel belongs to one thread. No call waits longer than the seconds it is given. Addresses are as ZeroMQ writes them
(`ipc:///tmp/x/control`, `tcp://host:7302`); only the control address is ever given by hand, WELCOME tells the others.
"""

from __future__ import annotations

from protocol.batch_client import BatchClient
from protocol.batch_peer import Delivery
from protocol.control_client import ControlClient
from protocol.control_peer import ControlState, Role, Welcome
from protocol.trajectory_peer import WhenFull
from protocol.trajectory_sender import TrajectorySender
from protocol.weights_channels import WeightsPublisher, WeightsReceiver

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
