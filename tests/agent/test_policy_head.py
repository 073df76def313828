from __future__ import annotations

from typing import Any

import pytest
import torch

from agent.policy_head import InwardClamp, make_policy_head, start_policy
from agent.settings import AgentSettings
from tests.agent.test_policies import BOX, MIXED


def settings(**changes: Any) -> AgentSettings:
    return AgentSettings.model_validate({"hidden_sizes": (8,), **changes})


@pytest.mark.parametrize("action", [BOX, MIXED])
@pytest.mark.parametrize("log_std", ["parameter", "state"])
def test_a_first_policy_is_near_even_with_the_deviation_that_was_asked_for(action: Any, log_std: str) -> None:
    head = make_policy_head(0, 8, 8, action, settings(log_std=log_std, log_std_init=-0.7))
    start_policy(head)
    row = head(torch.randn(5, 8))
    assert row.shape == (5, action.num_parameters)
    assert row[:, : -action.dimensions].abs().max() < 0.1
    assert (row[:, -action.dimensions :] + 0.7).abs().max() < (0.1 if log_std == "state" else 1e-6)


def test_a_deviation_of_its_own_is_the_same_in_all_states_and_one_of_the_state_is_not() -> None:
    for log_std, differs in (("parameter", False), ("state", True)):
        head = make_policy_head(0, 8, 8, BOX, settings(log_std=log_std))
        row = head(torch.randn(2, 8))
        assert bool((row[0, 2:] != row[1, 2:]).any()) == differs
        assert any(name == "log_std" for name, _ in head.named_parameters()) != differs


def test_log_stds_stay_within_their_bounds_and_come_back_from_outside() -> None:
    # Descent goes against the gradient: above the bound only a positive gradient lowers x, below only a negative one raises it.
    x = torch.tensor([-9.0, -9.0, 0.0, 0.0, 9.0, 9.0], requires_grad=True)
    out = InwardClamp.apply(x, -5.0, 2.0)  # type: ignore[no-untyped-call]
    assert out.tolist() == [-5, -5, 0, 0, 2, 2]
    out.backward(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [0, -1, 1, -1, 1, 0]


def test_bounds_of_the_deviation_must_hold_what_it_starts_at() -> None:
    with pytest.raises(ValueError, match=r"log_std_min <= log_std_init <= log_std_max must hold, got -5\.0, 3\.0 and 2\.0"):
        settings(log_std_init=3.0)
