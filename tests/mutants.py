"""Breaks losses and returns, one small change at a time, and sees whether a test notices: `python -m tests.mutants [FILE ...]`.

Nothing is written to the tree. A process that has torch loaded forks for each mutant; the child serves the changed source in
the place of the module and runs the tests that are about it. A survivor must be on the list beside this file with a reason
why no test can tell it from the original; one that is not, or an entry that is killed after all, ends with exit code 1.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import importlib.abc
import importlib.util
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
ACCEPTED = Path(__file__).with_name("mutants_accepted.txt")
CPU_LIMIT_S = 300
"""Of a mutant's tests, which take about a minute: what never ends is caught, and what waits for a busy machine is not."""
WALL_LIMIT_S = 3600
WIDE = ("test_plan", "test_objective", "test_half_precision", "test_poison", "test_updater")
"""Asked of every mutant that the tests of its own file let live."""
TARGETS: dict[str, tuple[str, ...]] = {
    "learner/nodes/return_estimators.py": ("test_return_estimators", "test_network"),
    "learner/nodes/returns.py": ("test_used_steps", "test_network", "test_measurements", "test_muesli_pg", "test_numbers"),
    "learner/nodes/prior_q.py": ("test_prior_q", "test_numbers"),
    "learner/nodes/sigma.py": ("test_sigma", "test_network"),
    "learner/nodes/masks.py": ("test_masks", "test_dynamics", "test_muesli_model"),
    "learner/advantage_scale.py": ("test_advantage_scale", "test_files"),
    "learner/losses/policy_kl.py": ("test_ppo_actor", "test_muesli_pg"),
    "learner/losses/ppo_critic.py": ("test_ppo_critic",),
    "learner/losses/policy_improvement.py": ("test_cmpo", "test_cmpo_sampled", "test_cmpo_properties"),
    "learner/losses/cmpo.py": ("test_cmpo", "test_cmpo_sampled", "test_cmpo_properties", "test_numbers"),
    "learner/losses/cmpo_sampled.py": ("test_cmpo", "test_cmpo_sampled", "test_numbers"),
    "learner/losses/ppo_actor.py": ("test_ppo_actor", "test_sums"),
    "learner/losses/muesli_pg.py": ("test_muesli_pg", "test_numbers"),
    "learner/losses/dynamics.py": ("test_dynamics",),
    "learner/losses/muesli_model.py": ("test_muesli_model", "test_sums", "test_numbers"),
}
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
OPERATIONS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
DROPPED = {"abs", "clamp", "detach", "double", "exp", "float", "log", "masked_fill", "mean", "sqrt", "square", "unsqueeze"}
"""Methods that are left out, as if x.abs() were x."""
ANNOTATIONS = {"annotation", "returns"}


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        file: of the source.
        line: in it.
        change: what was there and what is there now.
        source: the whole changed module.
    """

    file: str
    line: int
    change: str
    source: str

    @property
    def name(self) -> str:
        """Stays the same when lines above it are added; two alike in one file have the same reason to live."""
        return f"{self.file}: {self.change}"


def changed_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place; each differs from it in one thing.

    Beside the usual slips there are those that implementations of these losses are known for: `x[:, 1:]` written `x[1:]`, over
    the batch axis, and `torch.where(mask, x, 0)` written `x`.
    """
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARISONS:
            yield with_field(node, "ops", [COMPARISONS[type(operator)]()])
        case ast.BinOp(op=operation) if type(operation) in OPERATIONS:
            yield with_field(node, "op", OPERATIONS[type(operation)]())
        case ast.BoolOp(op=operation):
            yield with_field(node, "op", ast.Or() if isinstance(operation, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert()):
            yield node.operand
        case ast.IfExp(test=test) | ast.If(test=test):
            yield with_field(node, "test", ast.UnaryOp(ast.Not(), test))
        case ast.Subscript(slice=ast.Tuple(elts=[ast.Slice(lower=None, upper=None), *rest])):
            yield with_field(node, "slice", rest[0] if len(rest) == 1 else ast.Tuple(rest, ast.Load()))
        case ast.Constant() | ast.Call():
            yield from changed_leaves(node)


def changed_leaves(node: ast.Constant | ast.Call) -> Iterator[ast.AST]:
    """The same for numbers and calls."""
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in DROPPED and not is_module(value):
            yield value
        case ast.Call(func=ast.Attribute(attr="where"), args=[condition, first, second]):
            yield with_field(node, "args", [condition, second, first])
            yield first


def with_field(node: ast.AST, name: str, value: object) -> ast.AST:
    """A copy with one field changed."""
    changed = copy.copy(node)
    setattr(changed, name, value)
    return changed


def is_module(node: ast.expr) -> bool:
    """Whether `x.f()` is a function of a module rather than a method."""
    return isinstance(node, ast.Name) and node.id in {"torch", "distribution", "math"}


def mutants_of(file: str) -> list[Mutant]:
    """Every change of one file."""
    tree = ast.parse((ROOT / file).read_text())
    found = []
    for parent in code_of(tree):
        for name, value in ast.iter_fields(parent):
            places = value if isinstance(value, list) else [value]
            for index, child in enumerate(places):
                if not isinstance(child, ast.AST) or name in ANNOTATIONS:
                    continue
                for changed in changed_nodes(child):
                    put(parent, name, index if isinstance(value, list) else None, changed)
                    source = ast.unparse(ast.fix_missing_locations(copy.deepcopy(tree)))
                    put(parent, name, index if isinstance(value, list) else None, child)
                    change = f"{first_line(child)}  ->  {first_line(changed)}"
                    found.append(Mutant(file, getattr(child, "lineno", 0), change, source))
    return found


def code_of(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, without annotations, which change nothing."""
    yield node
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in ANNOTATIONS:
                yield from code_of(child)


def put(parent: ast.AST, name: str, index: int | None, node: ast.AST) -> None:
    """Set a child."""
    if index is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[index] = node


def first_line(node: ast.AST) -> str:
    """Code in words."""
    return ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).splitlines()[0]


class Served(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from changed source."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self.module = mutant.file.removesuffix(".py").replace("/", ".")

    def find_spec(self, fullname: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Only for the one module."""
        return importlib.util.spec_from_loader(fullname, self) if fullname == self.module else None

    def exec_module(self, module: ModuleType) -> None:
        """Run the changed source."""
        exec(compile(self.mutant.source, self.mutant.file, "exec"), module.__dict__)


def run_tests(names: Sequence[str]) -> bool:
    """Whether these files' tests pass, quietly."""
    import pytest  # loaded by the parent before it forks

    options = ["-x", "-q", "-p", "no:cacheprovider", "-o", "timeout=0", "--hypothesis-seed=0"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return pytest.main([*options, *files_of(names)]) == 0


def files_of(names: Sequence[str]) -> list[str]:
    """The test files with these names."""
    files = [str(path) for name in names for path in (ROOT / "tests/learner").rglob(f"{name}.py")]
    assert len(files) == len(names), f"expected one file for each of {names}, got {files}"
    return files


def survives(mutant: Mutant) -> bool:
    """Whether every test passes with the change: those about its file first, for most mutants need no others."""

    def changed() -> bool:
        sys.meta_path.insert(0, Served(mutant))
        return run_tests(TARGETS[mutant.file]) and run_tests(WIDE)

    return passes(changed)


def passes(tests: Callable[[], bool]) -> bool:
    """What tests say in a forked child; one that hangs is killed and has failed."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
        quiet = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(quiet, descriptor)
        try:
            os._exit(0 if tests() else 1)
        except BaseException:
            os._exit(1)
    deadline = time.monotonic() + WALL_LIMIT_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


def accepted() -> dict[str, str]:
    """Survivors that are known, with the reason: lines of `file: change  # reason`."""
    lines = [line for line in ACCEPTED.read_text().splitlines() if line and not line.startswith("#")]
    return {line.rpartition("  # ")[0]: line.rpartition("  # ")[2] for line in lines}


def preload() -> None:
    """Import what every child needs and no mutant changes."""
    for name in (
        "pytest",
        "pytest_timeout",
        "hypothesis",
        "hypothesis.strategies",
        "_hypothesis_pytestplugin",
        "torch",
        "torch._dynamo",
        "safetensors.torch",
        "prometheus_client",
        "agent.loading",
        "learner.settings",
        "protocol.channels",
        "oatmill.process.http",
    ):
        importlib.import_module(name)
    from hypothesis import Phase, settings

    # That an example fails is enough; to look for a smaller one takes longer than all the other tests.
    settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), database=None)
    settings.load_profile("mutants")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all mutants of the named files, or of all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("files", nargs="*", default=list(TARGETS), metavar="FILE")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    preload()
    known, started = accepted(), time.monotonic()
    everything = [mutant for file in options.files for mutant in mutants_of(file)]
    if not passes(lambda: run_tests([*dict.fromkeys(name for file in options.files for name in TARGETS[file]), *WIDE])):
        say("the tests fail without any change; run them first")
        return 1

    def tried(mutant: Mutant) -> bool:
        lives = survives(mutant)
        if lives:
            say(f"survived  {mutant.file}:{mutant.line}  {mutant.change}  # {known.get(mutant.name, 'NOT EXPLAINED')}")
        return lives

    with ThreadPoolExecutor(options.jobs) as pool:
        alive = list(pool.map(tried, everything))
    survivors = {mutant.name for mutant, lives in zip(everything, alive, strict=True) if lives}
    gone = {name for name in known if name.partition(": ")[0] in options.files} - survivors
    for name in sorted(gone):
        say(f"explained, but killed: {name}")
    for file in options.files:
        lives = [lived for lived, mutant in zip(alive, everything, strict=True) if mutant.file == file]
        say(f"{lives.count(False):4} of {len(lives):3}  {file}")
    killed = alive.count(False)
    say(f"{killed} of {len(alive)} killed ({killed / len(alive):.1%}) in {time.monotonic() - started:.0f} s")
    return int(bool(gone or survivors - known.keys()))


def say(line: str) -> None:
    """At once, for a run takes minutes."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
