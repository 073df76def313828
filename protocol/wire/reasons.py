"""Every reason code there is: why bytes were refused, and why a process was.

They are the values of `WireError.reason`, of the `reason` label of `oatmill_rejected_total` and of REJECT; a code that is not
listed here is used nowhere (tests/protocol/wire/test_reasons.py reads the source to see to it).
"""

from __future__ import annotations

BAD_MESSAGE = {
    "frames": "a message has exactly two frames, a header and a payload",
    "header_size": "a header has at most 8 KB",
    "header_msgpack": "a header is one msgpack map within the unpack limits",
    "header_kind": "a header names a message that this socket takes",
    "header_fields": "a header has exactly the fields of its message, each of its type",
    "payload_json": "this payload is one JSON object of at most 4 MB",
    "payload_length": "a payload is exactly as long as its header says",
    "unknown_session": "the sender is in the run and said HELLO before",
    "sequence": "a block lies wholly before or wholly after the last stored sequence number",
    "schema": "the schema is well formed and the run's own",
}
"""Codes of messages that break the protocol, with the rule that every good message follows."""

BAD_TRAJECTORY = {
    "rows": "a block has as many trajectories as its actor said in HELLO",
    "unroll_length": "a trajectory has actors.unroll_length steps",
    "not_boolean": "terminated, truncated and valid are 0 or 1",
    "non_finite": "every float is finite",
    "action_range": "an action is one of its factor's choices",
    "masked_action": "an action is one that the action mask allows",
    "reward_bound": "a reward lies within replay.max_abs_reward",
    "version_range": "the policy version exists: from 0 to the newest",
    "final_index": "each step that was cut, and not terminated, has one final observation, and no other step has any",
    "behaviour": "the behaviour policy is a distribution under which the action taken was likely enough to be drawn",
    "episodes": "an episode that ended has a length from 1 on",
}
"""Codes of trajectories that are well formed and yet cannot be trained on."""

BAD_WEIGHTS = {
    "weights_digest": "weights are what their digest was made of",
    "weights_layout": "weights fit the network that receives them",
}
"""Codes of weights."""

BAD_PRIORITIES = {
    "priorities": "priorities are asked for, and one finite number from 0 on for each trajectory of the batch",
}
"""Codes of what the learner says about the trajectories that it has trained on."""

UNAUTHORISED = {
    "unknown_key": "a connection shows a key that is trusted",
    "revoked": "a message comes from a key that is trusted still",
    "role": "a key speaks as its own role",
    "identity": "a process speaks as itself: with the session that the hub knows, from the key that it joined with",
}
"""Codes of connections and messages of those who may not."""

CLOSED = {
    "too_many_connections": "a socket has room for its connections, and for those among them that have said nothing",
    "too_much_unread": "a connection sends no more before its first message, or between two, than a message may have",
}
"""Codes of connections that were closed to keep descriptors and memory for the others."""

REFUSALS = {
    "config": "the joining process has the run's environment and agent settings",
    "spaces": "all actors have the same spaces and episode statistics",
    "description": "the description that a process joins with is complete",
    "fenced": "a process that took this one's place has not joined yet",
    "forgotten": "the hub knows the process that talks to it",
    "strikes": "an actor's messages are good, but for two",
    "batch_size": "the learner's batch size is trainer.batch_size and divides among its ranks",
    "block_size": "a block of trajectories fits into one message",
    "request": "a request has the values that it needs",
}
"""Codes of processes and requests that are refused, with the rule that every accepted one follows."""

REJECTED_REASONS = (*BAD_MESSAGE, *UNAUTHORISED, *CLOSED, *BAD_TRAJECTORY, *BAD_PRIORITIES, *BAD_WEIGHTS)
"""The closed set of the `reason` label."""
