"""The optimizee: what a learned optimizer is trained on and judged by.

A task is a pytree with two functions, `init` and `loss`. A *family* is a function from a PRNG key to a task; a
distribution of problems is nothing more than that:

    family = lambda key: Quadratic(W=jax.random.normal(key, (10, 10)), ...)

A family is called inside `jax.vmap`, so it must be traceable. One that holds data (images, say) should be an
`equinox.Module` with the arrays as fields: then all tasks share one copy and nothing is baked into compiled programs.
"""

import abc
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from l2o.core import keys as _keys
from l2o.core.checks import count, kind
from l2o.core.closures import Closure

Params: TypeAlias = PyTree


class AbstractTask(eqx.Module):
    r"""An optimizee $f(\theta)$: how to start, and the loss to reduce."""

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray) -> Params:
        r"""Draws the starting point $\theta_0$: any pytree of floating (or complex) arrays."""

    @abc.abstractmethod
    def loss(self, params: Params, key: PRNGKeyArray, *, split: str = "train") -> Float[Array, ""]:
        """The loss at `params`; `key` selects the minibatch, if there is one.

        `split` is within the task's data: "train" is what the inner loop descends, "outer" an independent and possibly
        larger batch of the same data for the meta-loss, "test" is held out. Tasks without data ignore it.
        """

    def metrics(self, params: Params, key: PRNGKeyArray, *, split: str = "test") -> dict[str, Array]:
        """Other things worth knowing at `params`, such as the accuracy. Default: none."""
        return {}

    def image(self, params: Params) -> Float[Array, "height width 3"] | None:
        """A picture of `params`, RGB in [0, 1], of a task whose params can be looked at. Default: None, there is none."""
        return None


TaskFamily: TypeAlias = Callable[[PRNGKeyArray], AbstractTask]


def check_callable(family: Any) -> None:
    """Refuses what cannot be called, and so is no family: a `TypeError`."""
    kind("family", family, callable, "a function from a PRNG key to a task, such as `l2o.tasks.quadratic.family()`")


class FunctionTask(AbstractTask):
    """Any problem, by passing functions.

    **Arguments:** `init_fn(key) -> params` and `loss_fn(params, key) -> scalar`; the key may be ignored by a
    deterministic loss. Close over data, or over what a family drew from its own key:

    ```python
    def family(key):
        target = jax.random.normal(key, (5,))
        return l2o.FunctionTask(lambda key: jnp.zeros(5), lambda x, key: jnp.sum((x - target) ** 4))
    ```

    The JAX arrays that they close over, themselves or by functions and pytrees that they close over, are the task's leaves: so
    `jax.vmap(family)(keys)` is a batch of tasks, and a program compiled for one task runs the others.
    """

    init_fn: Callable[[PRNGKeyArray], Params]
    loss_fn: Callable[[Params, PRNGKeyArray], Float[Array, ""]]

    def __init__(
        self, init_fn: Callable[[PRNGKeyArray], Params], loss_fn: Callable[[Params, PRNGKeyArray], Float[Array, ""]]
    ):
        kind("init_fn", init_fn, callable, "a function from a PRNG key to the params at the start")
        kind("loss_fn", loss_fn, callable, "a function from params and a PRNG key to the loss")
        self.init_fn = Closure(init_fn)
        self.loss_fn = Closure(loss_fn)

    def init(self, key):
        return self.init_fn(key)

    def loss(self, params, key, *, split="train"):
        return self.loss_fn(params, key)


def task_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """The key that the task of a run is drawn with, from the run's own."""
    return _keys.of_task(key)


def check_family(family: TaskFamily, key: PRNGKeyArray, num_tasks: int = 8) -> None:
    """Draws a few tasks and evaluates them at their start, so that a mistake shows before any work is lost.

    **Raises:** `TypeError` if the family does not return a task, or its params are not floating (or complex) arrays;
    `ValueError` if the loss is not a floating scalar, or not finite at the start.
    """
    count("num_tasks", num_tasks)
    check_callable(family)
    key = _keys.one(key)
    task_key, init_key, loss_key = jax.random.split(key, 3)
    task = eqx.filter_eval_shape(family, task_key)
    if not isinstance(task, AbstractTask):
        raise TypeError(
            f"A task family must return a task, but {_name(family)} returned {type(task).__name__}. "
            "Return an `l2o.AbstractTask`, for example `l2o.FunctionTask(init, loss)`."
        )
    params = eqx.filter_eval_shape(lambda: family(task_key).init(init_key))
    _check_params(params)
    loss = eqx.filter_eval_shape(lambda params: family(task_key).loss(params, loss_key), params)
    shape, dtype = getattr(loss, "shape", None), getattr(loss, "dtype", None)
    if shape != ():
        raise ValueError(
            f"The loss must be a scalar, got shape {shape}. Reduce it inside the task, e.g. with `jnp.mean`."
        )
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"The loss must be a floating number, got dtype {dtype}.")

    @eqx.filter_jit
    def start(family, key):
        task_key, init_key, loss_key = jax.random.split(key, 3)
        task = family(task_key)
        return task.loss(task.init(init_key), loss_key)

    losses = jnp.stack([start(family, k) for k in jax.random.split(key, num_tasks)])
    if not jnp.all(jnp.isfinite(losses)):
        raise ValueError(
            f"The loss is not finite at the start of {int(jnp.sum(~jnp.isfinite(losses)))} of {num_tasks} tasks drawn "
            f"(values: {[float(x) for x in losses]}). Check the family's init and loss before meta-training on it."
        )


def is_deterministic(family: TaskFamily, key: PRNGKeyArray) -> bool:
    """Whether losses and gradients ignore their key: no minibatches.

    Tried on a few tasks, each at its start, near it and far from it, with two keys at every point. At a start alone little
    shows: softmax regression from zeros has the loss log C on any minibatch.
    """

    def same(key):
        task_key, init_key, *keys = jax.random.split(key, 2 + 3 * len(_DISTANCES))
        task = family(task_key)
        start, unravel = ravel_pytree(task.init(init_key))
        equal = []
        for i, distance in enumerate(_DISTANCES):
            noise_key, *loss_keys = keys[3 * i : 3 * i + 3]
            params = unravel((start + distance * jax.random.normal(noise_key, start.shape)).astype(start.dtype))
            one, other = (jax.tree.leaves(jax.value_and_grad(task.loss)(params, k)) for k in loss_keys)
            equal += [jnp.all((a == b) | (jnp.isnan(a) & jnp.isnan(b))) for a, b in zip(one, other, strict=True)]
        return jnp.all(jnp.stack(equal))

    found = eqx.filter_jit(lambda keys: jax.lax.map(same, keys))(jax.random.split(_keys.one(key), 3))
    return bool(jnp.all(found))


_DISTANCES = (0.0, 0.1, 1.0)  # standard deviation of what is added to the start


def _check_params(params: Any) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    wrong = [
        f"{jax.tree_util.keystr(path)}: {getattr(leaf, 'dtype', type(leaf).__name__)}"
        for path, leaf in leaves
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact))
    ]
    if not leaves or wrong:
        found = ", ".join(wrong) if wrong else "no leaves at all"
        raise TypeError(f"A task's params must be floating arrays to be optimized, but `init` returned {found}.")


def _name(obj: Any) -> str:
    return getattr(obj, "__name__", type(obj).__name__)
