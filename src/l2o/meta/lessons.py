"""What `l2o.distill` learns from: what coordinates met in runs, what the teacher proposed there, and how far a student is off."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, PyTree

from l2o.core import parallel
from l2o.core.coordinates import flatten, num_coordinates, positions
from l2o.core.inner_loop import with_dtypes_of
from l2o.core.optimizer import AbstractCoordinatewise, AbstractLearnedOptimizer
from l2o.core.task import TaskFamily
from l2o.core.unroll import begin, unroll

_MOST_BYTES = 2**31
_STRETCH = 10  # steps that the size of the teacher's updates is averaged over
_STILL = 1e-6  # of the mean square of the teacher's updates: a stretch of less counts as of so much


class Part(NamedTuple):
    """A part of the params that a rule of the student's acts on, and how many of its coordinates are recorded."""

    name: str | None  # of the student's part; None: the student itself
    places: list[Int[np.ndarray, " size"]]  # of each leaf's coordinates, in the vector of all
    num: int
    like: PyTree = (
        None  # the params, for a rule that is to be given all of them as they are; None: a coordinatewise rule
    )

    def rule(self, student: AbstractLearnedOptimizer) -> AbstractLearnedOptimizer:
        """The rule of `student` that acts on it."""
        if self.name is None:
            return student
        rules = student.group_rules()
        assert rules is not None
        return rules[self.name]

    def drawn(self, rng: np.random.Generator) -> Int[np.ndarray, " num"]:
        """Places to record: half drawn from all coordinates, half by leaf; where all are recorded, in order."""
        everywhere = np.concatenate(self.places)
        if self.num == len(everywhere):
            return everywhere
        leaf = rng.integers(len(self.places), size=self.num // 2)
        of_leaf = rng.integers(np.array([len(places) for places in self.places])[leaf])
        starts = np.cumsum([0, *(len(places) for places in self.places)])
        return np.concatenate([rng.choice(everywhere, self.num - len(leaf)), everywhere[starts[leaf] + of_leaf]])


class Lessons(NamedTuple):
    """Recorded runs."""

    losses: Float[np.ndarray, "num_runs horizon_plus_1"]
    parts: list["Lesson"]

    def finite(self) -> Bool[np.ndarray, " num_runs"]:
        """Which runs are."""
        met = (np.isfinite(x).all(axis=(1, 2)) for lesson in self.parts for x in lesson)
        return np.logical_and.reduce([np.isfinite(self.losses).all(axis=1), *met])

    def split(self, at: int) -> tuple["Lessons", "Lessons"]:
        """The first `at` runs, and the others."""
        first = Lessons(self.losses[:at], [Lesson(*(x[:at] for x in lesson)) for lesson in self.parts])
        return first, Lessons(self.losses[at:], [Lesson(*(x[at:] for x in lesson)) for lesson in self.parts])


class Lesson(NamedTuple):
    """What the recorded coordinates of one part met in each run: [num_runs, horizon, num]."""

    gradients: Any
    params: Any
    wanted: Any  # the updates that the teacher proposed

    def weighted(self) -> tuple[Any, Any, Any, Any]:
        """With the `weights` of its runs."""
        return (*self, weights(self.wanted))


def parts_of(student: AbstractLearnedOptimizer, params: PyTree, most: int) -> list[Part]:
    """The parts of `params` that the student's rules learn on: sampled if all rules are coordinatewise, else whole."""
    groups = student.coordinate_groups(params)
    rules = {None: student} if groups is None else {name: group.rule for name, group in groups.items()}
    places = positions(params)
    if not all(isinstance(rule, AbstractCoordinatewise) for rule in rules.values()):
        leaves = [x for x in jax.tree.leaves(places) if len(x)]
        return [Part(None, leaves, num_coordinates(params), params)]
    found = []
    for name in rules:
        own = places if groups is None or name is None else groups[name].take(places)
        leaves = [x for x in jax.tree.leaves(own) if len(x)]
        found.append(Part(name, leaves, min(most, sum(map(len, leaves)))))
    return found


def check_memory(parts: Sequence[Part], horizon: int, num_runs: int) -> None:
    """Refuses to record more than 2 GiB: a `ValueError`."""
    num = sum(part.num for part in parts)
    size = 3 * 4 * num * horizon * num_runs
    if size > _MOST_BYTES:
        told = "all" if parts[0].like is not None else "sampled"
        raise ValueError(
            f"Recording {num} coordinates ({told}) for {horizon} steps of {num_runs} runs would take {size / 2**30:.1f} GiB, and "
            "at most 2 are. Take fewer runs, tasks or coordinates; a student that is not coordinatewise learns from all of them, "
            "so give it a task of few params."
        )


class Recorder:
    """Records runs of `horizon` steps on tasks of `family`, the teacher's or those of a student."""

    def __init__(
        self,
        teacher: AbstractLearnedOptimizer,
        family: TaskFamily,
        parts: Sequence[Part],
        horizon: int,
        batch_size,
        devices,
    ):
        self.teacher, self.family, self.parts, self.horizon = teacher, family, parts, horizon
        self.batch_size, self.devices = batch_size, devices
        self.program = parallel.jit_for_now(_recorded)

    def __call__(self, lead: AbstractLearnedOptimizer | None, keys: Key[Array, " num_runs"]) -> Lessons:
        """A run for every key. `lead` takes the steps, and the teacher only says what it would do; None: the teacher leads."""
        index = []
        for key in keys:
            rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
            index.append(np.concatenate([part.drawn(rng) for part in self.parts]))
        devices = parallel.share(len(keys), self.devices)
        size = min(self.batch_size or len(keys), len(keys) // len(devices))
        shares = zip(keys.reshape(len(devices), -1), np.split(np.stack(index), len(devices)), devices, strict=True)
        arguments = [
            (*parallel.put((lead, self.teacher, self.family, own, jnp.asarray(places)), device), self.horizon, size)
            for own, places, device in shares
        ]
        found = parallel.run_on_each(self.program, arguments)
        losses, *met = (np.concatenate([np.asarray(x) for x in of_each]) for of_each in zip(*found, strict=True))
        ends = np.cumsum([part.num for part in self.parts])[:-1]
        return Lessons(
            losses, [Lesson(*x) for x in zip(*(np.split(values, ends, axis=2) for values in met), strict=True)]
        )


def _recorded(lead, teacher, family, keys, index, horizon, batch_size):
    def one(run):
        key, places = run
        pair = _Beside(lead, teacher, places)
        task, state, batch_key = begin(family, pair, key)

        def record(step):
            met = (flatten(tree)[0][places] for tree in (step.gradient, step.params))
            return step.loss, *met, step.opt_state[2]

        return unroll(task, pair, state, batch_key, length=horizon + 1, record=record)[1]

    losses, gradients, params, before = jax.lax.map(one, (keys, index), batch_size=batch_size)
    # What the teacher proposed at a step is in the state before the next one.
    return losses, gradients[:, :-1], params[:, :-1], before[:, 1:]


class _Beside(AbstractLearnedOptimizer):
    """The teacher beside whoever leads; the state's third part is what the teacher proposed last at the recorded places."""

    lead: AbstractLearnedOptimizer | None
    teacher: AbstractLearnedOptimizer
    places: Int[Array, " num"]

    @property
    def uses_value(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] (the teacher decides)
        """Whether the teacher is given the loss; no student is."""
        return self.teacher.uses_value

    def eval_params(self, opt_state, params):
        rule, state = (self.teacher, opt_state[1]) if self.lead is None else (self.lead, opt_state[0])
        return rule.eval_params(state, params)

    @property
    def has_eval_params(self):
        return (self.teacher if self.lead is None else self.lead).has_eval_params

    def init(self, params):
        own = () if self.lead is None else self.lead.init(params)
        return own, self.teacher.init(params), jnp.zeros_like(flatten(params)[0][self.places])

    def update(self, updates, state, params=None, **extra: Any):
        own, theirs, _ = state
        wanted, theirs = self.teacher.update(updates, theirs, params, **extra)
        noted = flatten(wanted)[0][self.places]
        if self.lead is None:
            return wanted, (own, theirs, noted)
        updates, own = self.lead.update(updates, own, params)
        return updates, (own, theirs, noted)


def replayed(
    rule: AbstractLearnedOptimizer,
    gradients: Float[Array, "length num"],
    params: Float[Array, "length num"],
    like: PyTree = None,
) -> Float[Array, "length num"]:
    """The rule's updates on recorded gradients; `like`: the params that it is given, which the coordinates are of."""
    rebuild = (lambda vector: vector) if like is None else _rebuilder(like)

    # Recomputing one step in the backward pass is cheaper than storing all it computed.
    @jax.checkpoint
    def step(state, now):
        gradient, params = now
        updates, new = rule.update(rebuild(gradient), state, rebuild(params))
        return with_dtypes_of(state, new), flatten(updates)[0]

    return jax.lax.scan(step, rule.init(rebuild(params[0])), (gradients, params))[1]


def _rebuilder(like):
    return flatten(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like))[1]


def weights(wanted: Float[np.ndarray, "num_runs length num"]) -> Float[np.ndarray, "num_runs length"]:
    """What squared errors of a coordinate are multiplied by, for the updates that the teacher proposed for all recorded ones."""
    size: Any = np.mean(np.square(wanted), axis=2, dtype=np.float64)
    mean = size.mean(axis=1, keepdims=True)
    mean = np.maximum(
        mean, _STILL * mean.max()
    )  # a run in which the teacher stands still is no reason to divide by zero
    starts = np.arange(0, wanted.shape[1], _STRETCH)
    lengths = np.diff(starts, append=wanted.shape[1])
    means = np.repeat(np.add.reduceat(size, starts, axis=1) / lengths, lengths, axis=1)
    scale = np.sqrt(np.maximum(means, _STILL * mean) * mean)
    return np.where(scale > 0, 1 / np.where(scale > 0, scale, 1), 0).astype(wanted.dtype)


def errors(student: AbstractLearnedOptimizer, parts: Sequence[Part], lessons: Lessons) -> list[float]:
    """Each part's relative squared error: the mean over runs, all of whose recorded coordinates are looked at."""

    def error(rule, lessons, like):
        def one(run):
            gradients, params, wanted, weight = run
            apart = jnp.mean((replayed(rule, gradients, params, like) - wanted) ** 2, axis=1)
            return jnp.mean(apart * weight)

        return jnp.mean(jax.lax.map(one, lessons))

    run = parallel.jit_for_now(error)
    return [
        float(run(part.rule(student), jax.tree.map(jnp.asarray, lesson.weighted()), part.like))
        for part, lesson in zip(parts, lessons.parts, strict=True)
    ]


def example_params(family: TaskFamily, key: PRNGKeyArray) -> PyTree:
    """Shapes and dtypes of the params of a task."""
    return eqx.filter_eval_shape(lambda: family(key).init(key))
