"""Which predictions of the latent unroll are real: every case by hand, and at random against the specification's words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from learner.nodes.masks import ahead, shift, unroll_masks
from tests.learner import oracles


def masks_of(
    steps: int,
    model_steps: int,
    *,
    terminated: tuple[int, ...] = (),
    truncated: tuple[int, ...] = (),
    absent: tuple[int, ...] = (),
) -> dict[str, list[str]]:
    """Each mask as one string a step: `x` where it holds, for k = 1..K."""
    flags = [torch.tensor([[t in chosen for t in range(steps)]]) for chosen in (terminated, truncated, absent)]
    masks = unroll_masks(flags[0], flags[1], ~flags[2], model_steps)
    return {
        name: ["".join("x" if holds else "." for holds in step) for step in mask[0].tolist()]
        for name, mask in masks._asdict().items()
    }


def test_without_an_end_the_trajectory_alone_bounds_the_unroll() -> None:
    # T = 3, K = 3. From t = 0: rewards of steps 0, 1, 2; states 1 and 2 exist, state 3 is behind the trajectory.
    masks = masks_of(3, 3)
    assert masks["reward"] == ["xxx", "xx.", "x.."]
    assert masks["policy"] == ["xx.", "x..", "..."]
    assert masks["value"] == ["xx.", "x..", "..."]
    assert masks["absorbing"] == ["...", "...", "..."]


def test_after_a_termination_the_return_is_known_to_be_0_once_and_then_nothing_is() -> None:
    # Step 1 terminates. From t = 0: rewards 0 and 1 are real; state 1 is; the state after step 1 is absorbing (k = 2).
    masks = masks_of(4, 3, terminated=(1,))
    assert masks["reward"] == ["xx.", "x..", "xx.", "x.."]
    assert masks["policy"] == ["x..", "...", "x..", "..."]
    assert masks["absorbing"] == [".x.", "x..", "...", "..."]
    assert masks["value"] == ["xx.", "x..", "x..", "..."]


def test_after_a_truncation_the_return_is_unknown() -> None:
    masks = masks_of(4, 3, truncated=(1,))
    assert masks["reward"] == ["xx.", "x..", "xx.", "x.."]
    assert masks["policy"] == masks["value"] == ["x..", "...", "x..", "..."]
    assert masks["absorbing"] == ["...", "...", "...", "..."]


def test_the_end_of_an_episode_at_the_trajectorys_last_step_is_known() -> None:
    # t + k = T, but step T - 1 terminated: the return after it is 0, whatever comes.
    masks = masks_of(2, 2, terminated=(1,))
    assert masks["absorbing"] == [".x", "x."]
    assert masks["value"] == ["xx", "x."]


def test_nothing_is_predicted_from_or_through_a_step_that_does_not_count() -> None:
    # Step 1 is absent: from t = 0 only its own reward is known.
    masks = masks_of(3, 2, absent=(1,))
    assert masks["reward"] == ["x.", "..", "x."]
    assert masks["policy"] == masks["value"] == ["..", "..", ".."]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 6))
def test_the_masks_are_what_the_specification_says(seed: int, steps: int, model_steps: int) -> None:
    rng = np.random.default_rng(seed)
    terminated, truncated = rng.random((3, steps)) < 0.25, rng.random((3, steps)) < 0.2
    mask = rng.random((3, steps)) < 0.9
    masks = unroll_masks(torch.from_numpy(terminated), torch.from_numpy(truncated), torch.from_numpy(mask), model_steps)
    truth = oracles.unroll_truth(terminated, truncated, mask, model_steps)
    for name, holds in masks._asdict().items():
        np.testing.assert_array_equal(holds.numpy(), truth[name], err_msg=name)


@pytest.mark.parametrize(("by", "expected"), [(0, [1, 2, 3]), (1, [2, 3, 9]), (3, [9, 9, 9]), (5, [9, 9, 9])])
def test_shift_brings_later_steps_forward_and_fills_behind_the_end(by: int, expected: list[int]) -> None:
    assert shift(torch.tensor([[1, 2, 3]]), by, fill=9).tolist() == [expected]


def test_ahead_stacks_the_steps_to_come_and_keeps_further_axes() -> None:
    # Two numbers a step; first=1: k = 1, 2 are one and two steps ahead.
    values = torch.tensor([[[1, 10], [2, 20], [3, 30]]])
    stacked: Tensor = ahead(values, 2, first=1)
    assert stacked.tolist() == [[[[2, 20], [3, 30]], [[3, 30], [0, 0]], [[0, 0], [0, 0]]]]
    assert ahead(values[..., 0], 2, first=0).tolist() == [[[1, 2], [2, 3], [3, 0]]]
