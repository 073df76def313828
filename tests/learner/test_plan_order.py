"""The order of a plan's nodes, from what they read and write, and whom it refuses by name."""

from __future__ import annotations

from typing import ClassVar, TypedDict

import pytest
from torch import Tensor

from agent.settings import AgentSettings
from learner.loss import Choice, Loss, Node, Term, Terms, method_reads, node_reads, node_writes
from learner.losses.cmpo import ExactCmpo
from learner.plan import LOSSES, make_plan, order
from oatmill.errors import SettingsError
from protocol.data.spaces import ActionSpace
from tests.learner.worlds import make_trainer


class ThingWrites(TypedDict):
    thing_BT: Tensor


class Planted(Loss):
    name: ClassVar[str] = "planted"

    def compute(self, *, mask_BT: Tensor) -> Terms:
        return {"one": Term(mask_BT.float(), mask_BT, 1.0)}


class Writer(Planted):
    name = "writer"

    def prepare(self, *, mask_BT: Tensor) -> ThingWrites:
        return {"thing_BT": mask_BT.float()}


class OtherWriter(Writer):
    name = "other_writer"


class Reader(Loss):
    name = "reader"

    def compute(self, *, thing_BT: Tensor, mask_BT: Tensor) -> Terms:
        return {"one": Term(thing_BT, mask_BT, 1.0)}


class EchoWrites(TypedDict):
    echo_BT: Tensor


class Echo(Planted):
    name = "echo"

    def prepare(self, *, thing_BT: Tensor) -> EchoWrites:
        return {"echo_BT": thing_BT}


class Circle(Planted):
    name = "circle"

    def prepare(self, *, echo_BT: Tensor) -> ThingWrites:
        return {"thing_BT": echo_BT}


class Gradient(Planted):
    name = "gradient"


class BatchWrites(TypedDict):
    mask_BT: Tensor


class OverwritesTheBatch(Planted):
    name = "overwriter"

    def prepare(self, *, mask_BT: Tensor) -> BatchWrites:
        return {"mask_BT": mask_BT}


def test_a_reader_comes_after_its_writer_wherever_it_stands_in_the_table() -> None:
    assert order([Reader, Echo, Writer]) == [Writer, Reader, Echo]
    assert order([Writer, Reader]) == [Writer, Reader]


def test_ties_keep_the_tables_order() -> None:
    class First(Planted):
        name = "first"

    class Second(Planted):
        name = "second"

    assert order([Second, First]) == [Second, First]
    assert order([First, Reader, Second, Writer]) == [First, Second, Writer, Reader]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([Planted, Writer, Planted], "the name planted is already used"),
        ([Gradient], "the name gradient is already used"),
        ([Writer, OtherWriter], "thing_BT has two writers, writer and other_writer"),
        ([OverwritesTheBatch], "mask_BT has two writers, the batch and overwriter"),
        ([Reader], "reader reads thing_BT, which no node writes"),
        ([Echo, Circle], "depend on each other in a cycle: .*echo"),
    ],
)
def test_two_writers_a_repeated_name_an_unknown_input_and_a_cycle_raise_errors_with_names(
    nodes: list[type[Node]], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        order(nodes)


def test_a_users_own_loss_is_part_of_the_plan() -> None:
    trainer = make_trainer("baseline")
    losses = (*LOSSES, lambda _question: Choice(Reader), lambda _question: Choice(Writer))
    plan = make_plan(trainer, AgentSettings(), ActionSpace((3,)), losses=losses)
    assert plan.order[-2:] == ["writer", "reader"]


def test_a_users_own_loss_does_not_replace_another_one() -> None:
    class Critic(Planted):
        name = "ppo_critic"

    with pytest.raises(SettingsError, match="the name ppo_critic is already used"):
        make_plan(
            make_trainer("baseline"), AgentSettings(), ActionSpace((3,)), losses=(*LOSSES, lambda _question: Choice(Critic))
        )


def test_a_loss_with_an_unknown_input_raises_an_error_that_names_it() -> None:
    with pytest.raises(SettingsError, match="reader reads thing_BT, which no node writes"):
        make_plan(make_trainer("baseline"), AgentSettings(), ActionSpace((3,)), losses=(lambda _question: Choice(Reader),))


def test_reads_are_those_of_all_methods_and_writes_those_of_prepare() -> None:
    assert node_reads(Reader) == {"thing_BT", "mask_BT"}
    assert method_reads(Reader, "prepare") == frozenset()
    assert node_writes(Writer) == {"thing_BT"}
    assert node_writes(Reader) == frozenset()
    assert "sigma" in node_reads(ExactCmpo)
