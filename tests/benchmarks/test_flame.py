"""Flame graphs: widths are shares, and labels need no script."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from benchmarks.flame import COLOURS, THINNEST, WIDTH, colour_of, picture, tree_of

STACKS = [
    "main (learner/__main__.py);learn (learner/updater.py);Module._call_impl (torch/nn/module.py);forward (torch/linear.py) 60",
    "<module> (learner/__main__.py);main (learner/__main__.py);learn (learner/updater.py) 20",
    "main (learner/__main__.py);step (gymnasium/core.py) 20",
]


def test_samples_add_up_and_pytorchs_call_is_passed_through() -> None:
    root = tree_of(STACKS)
    assert root.samples == 100
    main = root.calls["main (learner/__main__.py)"]
    learn = main.calls["learn (learner/updater.py)"]
    assert (main.samples, learn.samples) == (100, 80)
    assert list(learn.calls) == ["forward (torch/linear.py)"]


def test_other_threads_are_left_out() -> None:
    watched = [*STACKS, "run (threading.py);wait (threading.py) 100"]
    assert tree_of(watched) == tree_of(STACKS)


def test_a_frame_is_as_wide_as_its_share_and_stands_on_its_caller() -> None:
    svg = picture(STACKS, "a learner & more")
    ElementTree.fromstring(svg)
    assert "a learner &amp; more, 100 samples" in svg
    assert "<script" not in svg
    found = re.search(r'<title>learn \(learner/updater.py\): 80.0%</title><rect x="0.0" y="(\d+)" width="([\d.]+)"', svg)
    above = re.search(r'<title>forward \(torch/linear.py\): 60.0%</title><rect x="0.0" y="(\d+)" width="([\d.]+)"', svg)
    assert found is not None
    assert above is not None
    assert float(found[2]) == round(0.8 * WIDTH - 0.6, 1)
    assert int(above[1]) < int(found[1])


def test_what_is_too_thin_to_see_is_left_out() -> None:
    few = round(100 / THINNEST / 2)
    svg = picture(
        [*STACKS, f"main (learner/__main__.py);wait (zmq/poll.py) {few}", "main (learner/__main__.py);rare (x.py) 1"], "t"
    )
    assert "wait (zmq/poll.py)" in svg
    assert "rare" not in svg


def test_frames_are_coloured_by_whose_they_are() -> None:
    names = [
        "learn (learner/updater.py)",
        "linear (torch/nn/functional.py)",
        "step (mettagrid/simulator.py)",
        "poll (zmq/x.py)",
    ]
    assert [colour_of(name) for name in names] == [colour for colour, _ in COLOURS.values()]
