"""Single coordinates followed through runs of a rule: which ones, what they met, and how they would have answered otherwise."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from l2o.core import keys as _keys
from l2o.core.coordinates import conjugate, flatten, num_coordinates
from l2o.core.inner_loop import InnerState
from l2o.core.optimizer import Optimizer, with_extra_args
from l2o.core.task import AbstractTask, TaskFamily
from l2o.core.unroll import begin, unroll
from l2o.evaluation.explained import RULE, Response, steps_told

_NUM_SWEPT = 61  # gradients of a sweep; odd, so that zero is one


class Runs(NamedTuple):
    """What `recorded` found."""

    losses: Any  # [num_runs, horizon + 1]
    params: Any  # [num_runs, horizon, num_coordinates]
    gradients: Any
    updates: Any


def recorded(optimizer, family, index, keys, *, horizon, together) -> Runs:
    """Runs of `horizon` steps on the task of every key: losses, and what the coordinates at `index` of the raveled params met.

    `together`: the runs side by side in one vectorised program, rather than one after another.
    """
    losses, record = _record(optimizer, family, index, keys, length=horizon + 1, together=together)
    return Runs(np.asarray(losses), *(np.asarray(x)[:, :horizon] for x in record))


@eqx.filter_jit
def _record(
    optimizer: Optimizer,
    family: TaskFamily,
    index: Int[Array, " num_coordinates"],
    keys: Key[Array, " num_tasks"],
    *,
    length: int,
    together: bool,
) -> tuple[Float[Array, "num_tasks length"], PyTree]:
    def one(key):
        def record(step):
            met = (flatten(tree)[0][index] for tree in (step.params, step.gradient, step.updates))
            return step.loss, tuple(met)

        task, state, batch_key = begin(family, optimizer, key)
        return unroll(task, optimizer, state, batch_key, length=length, record=record)[1]

    return jax.lax.map(one, keys, batch_size=len(keys) if together else 1)


def drawn_coordinates(
    sizes: list[int], mine: list[bool], key: PRNGKeyArray
) -> tuple[Int[Array, " num_coordinates"], Int[np.ndarray, " num_coordinates"]]:
    """Positions in the raveled params of coordinates drawn from every array that is ours, and which array each is of."""
    most, rng = max(4, 128 // sum(mine)), np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    starts = np.cumsum([0, *sizes[:-1]])
    drawn = [
        start + np.sort(rng.choice(n, min(n, most), replace=False))
        for start, n, own in zip(starts, sizes, mine, strict=True)
        if own
    ]
    group = np.repeat(np.arange(len(drawn)), [len(d) for d in drawn])
    return jnp.asarray(np.concatenate(drawn), jnp.int32), group


def label(params: PyTree, position: int) -> str:
    """A coordinate as one would write it: θ['w'][3, 7], or Re θ['w'][3, 7] of a complex number's two."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        num = num_coordinates(leaf)
        if position < num:
            part = ""
            if num > leaf.size:
                part, position = ("Re ", "Im ")[position % 2], position // 2
            place = ", ".join(str(int(i)) for i in np.unravel_index(position, leaf.shape))
            return f"{part}θ{jax.tree_util.keystr(path)}" + (f"[{place}]" if place else "")
        position -= num
    raise AssertionError("a position beyond the params")


def shown(gradients: Float[np.ndarray, "horizon num_coordinates"]) -> list[int]:
    """Two coordinates to look at: of those that have gradients, one in the middle by their size, and one of the largest."""
    size = np.sqrt((gradients**2).mean(axis=0))
    order = np.argsort(size)[np.sum(size == 0) :]
    if not len(order):
        order = np.argsort(size)
    return sorted({int(order[round(q * (len(order) - 1))]) for q in (0.5, 0.9)})


def responses(optimizer, others, family, key, index, labels, path, horizon) -> Iterator[Response]:
    """At every step told, for every coordinate shown. `others` are coordinatewise: they are replayed on its gradients alone."""
    task, state, batch_key = begin(family, optimizer, key)
    for step in range(1, horizon + 1):
        for i, label in labels.items() if step in steps_told(horizon) else ():
            history = path.gradients[:, i]
            near = np.abs(history[max(0, step - 11) : step + 10]).max()  # what the coordinate meets about then
            swept = np.linspace(-1.5, 1.5, _NUM_SWEPT) * (near or np.abs(history).max() or 1.0)
            values = jnp.asarray(swept, history.dtype)
            updates = {RULE: np.asarray(_swept(optimizer, task, state, batch_key, index[i], values))}
            histories = np.concatenate([np.repeat(history[: step - 1, None], _NUM_SWEPT, axis=1), swept[None]])
            updates |= {name: replayed(rule, histories)[-1] for name, rule in others.items()}
            yield Response(label, step, swept, updates, float(history[step - 1]), float(path.updates[step - 1, i]))
        state = _advanced(optimizer, task, state, batch_key)


@eqx.filter_jit
def _advanced(optimizer: Optimizer, task: AbstractTask, state: InnerState, key: PRNGKeyArray) -> InnerState:
    return unroll(task, optimizer, state, key, length=1)[0]


@eqx.filter_jit
def _swept(
    optimizer: Optimizer,
    task: AbstractTask,
    state: InnerState,
    key: PRNGKeyArray,
    position: Int[Array, ""],
    values: Float[Array, " num"],
) -> Float[Array, " num"]:
    """The coordinate's update for each value of its gradient; state, params and all other gradients as they are."""
    step_key = _keys.of_step(key, state.step)
    loss, gradient = jax.value_and_grad(task.loss)(state.params, step_key)
    flat, rebuild = flatten(conjugate(gradient))

    def one(value):
        changed = rebuild(flat.at[position].set(value))
        extra = {"value": loss, "grad": changed, "value_fn": lambda params: task.loss(params, step_key)}
        updates, _ = with_extra_args(optimizer).update(changed, state.opt_state, state.params, **extra)
        return flatten(updates)[0][position]

    return jax.lax.map(one, values)


def replayed(rule: Optimizer, gradients: Float[np.ndarray, "horizon num"]):
    """The updates of a coordinatewise rule that needs no params on given gradients: [horizon, num]."""
    history = jnp.asarray(gradients, jnp.float32)

    def step(state, gradient):
        updates, state = rule.update(gradient, state)
        return state, updates

    return np.asarray(jax.lax.scan(step, rule.init(history[0]), history)[1])
