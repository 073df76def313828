"""All reason codes: why a message, a process or a request was rejected.

They are the values of `WireError.reason`, of the label `reason` of `oatmill_rejected_total`, and of
REJECT. A test reads the source and checks that no other code is used. Each text states the rule
that was broken.
"""

from __future__ import annotations

BAD_MESSAGE = {
    "frames": "a message has exactly two frames, a header and a payload",
    "header_size": "a header has at most 8 KB",
    "header_msgpack": "a header is one msgpack map within the unpack limits",
    "header_kind": "a header names a message that this socket accepts",
    "header_fields": "a header has exactly the fields of its message, with the right types",
    "payload_json": "a JSON payload is one object of at most 4 MB",
    "payload_length": "a payload is exactly as long as its header says",
    "unknown_session": "the sender has joined the run and sent HELLO before",
    "sequence": "a block is entirely before or entirely after the last stored sequence number",
    "schema": "the schema is well-formed and equal to the run's",
}
"""Codes of messages that break the protocol."""

BAD_TRAJECTORY = {
    "rows": "a block has the number of trajectories that its actor announced in HELLO",
    "unroll_length": "a trajectory has actors.unroll_length steps",
    "not_boolean": "terminated, truncated and valid are 0 or 1",
    "non_finite": "every float is finite",
    "action_range": "an action is one of its factor's choices",
    "masked_action": "an action is one that the action mask allows",
    "reward_bound": "the absolute value of a reward is at most replay.max_abs_reward",
    "version_range": "the policy version exists: from 0 to the newest",
    "final_index": "each truncated step that is not terminated has one final observation, and no other step has any",
    "behaviour": "the behaviour policy gives the action that was taken enough probability",
    "episodes": "an ended episode has a length of at least 1",
}
"""Codes of trajectories that are well-formed but cannot be trained on."""

BAD_WEIGHTS = {
    "weights_digest": "weights fit their digest",
    "weights_layout": "weights fit the network that receives them",
}
"""Codes of bad weights."""

BAD_PRIORITIES = {
    "priorities": "priorities are sent only if requested: one finite number of at least 0 per trajectory of the batch",
}
"""Codes of bad priorities."""

UNAUTHORISED = {
    "unknown_key": "a connection has a trusted key",
    "revoked": "the key of a connection is still trusted",
    "role": "a key is used only for its own role",
    "identity": "a process uses its own session and the key that it joined with",
}
"""Codes of connections and messages that are not allowed."""

CLOSED = {
    "too_many_connections": "a socket has room for all its connections, and for those that have sent nothing",
    "too_much_unread": "a connection sends at most the size of a message before its first whole message, and between two",
}
"""Codes of connections that were closed to save descriptors and memory."""

REFUSALS = {
    "config": "the joining process has the run's environment and agent settings",
    "version": "a joining machine has the run's version of oatmill",
    "spaces": "all actors have the same spaces and episode statistics",
    "description": "the description that a process joins with is complete",
    "fenced": "no other process has taken this one's place",
    "forgotten": "the hub knows the process that sends a message",
    "strikes": "an actor sends at most two bad messages",
    "batch_size": "the learner's batch size is trainer.batch_size and a multiple of its number of ranks",
    "block_size": "a block of trajectories fits into one message",
    "request": "a request has the values that it needs",
}
"""Codes of processes and requests that are rejected."""

REJECTED_REASONS = (*BAD_MESSAGE, *UNAUTHORISED, *CLOSED, *BAD_TRAJECTORY, *BAD_PRIORITIES, *BAD_WEIGHTS)
"""All values of the label `reason`."""
