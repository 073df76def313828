from __future__ import annotations

from oatmill.settings.flat import first_difference, flatten_settings, joining_config

CONFIG = {
    "env": {"kind": "gymnasium", "id": "CartPole-v1", "kwargs": {"render": {"mode": None}}},
    "agent": {"hidden_sizes": [128, 128]},
    "actors": {"count": 2, "unroll_length": 64},
    "replay": {"queue_batches": 1.0},
    "trainer": {"batch_size": 64},
    "metrics": {},
}


def test_the_shared_settings_are_environment_network_and_unroll_length() -> None:
    assert joining_config(CONFIG) == {
        "env.kind": "gymnasium",
        "env.id": "CartPole-v1",
        "env.kwargs.render.mode": None,
        "agent.hidden_sizes": [128, 128],
        "actors.unroll_length": 64,
    }


def test_tuples_and_lists_are_the_same_setting() -> None:
    assert flatten_settings({"hidden_sizes": (128, 128)}) == flatten_settings({"hidden_sizes": [128, 128]})


def test_the_first_setting_that_differs_is_named_with_both_values() -> None:
    ours = {"env.id": "CartPole-v1", "env.kind": "gymnasium", "agent.core": "none"}
    assert first_difference(ours, dict(ours)) is None
    theirs = ours | {"env.id": "Acrobot-v1", "env.kind": "cogs"}
    assert first_difference(ours, theirs) == "env.id: the run has 'CartPole-v1', this process has 'Acrobot-v1'"


def test_a_setting_that_one_side_does_not_have_differs() -> None:
    assert first_difference({}, {"env.id": "x"}) == "env.id: the run has 'nothing', this process has 'x'"
    assert first_difference({"env.id": "x"}, {}) == "env.id: the run has 'x', this process has 'nothing'"
