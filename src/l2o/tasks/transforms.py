"""The problems of a family in other coordinates, so that no rule is learned that fits only the given ones."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from l2o.core.checks import flags, kind, not_negative, share
from l2o.core.task import AbstractTask, Params, TaskFamily, check_callable

Where: TypeAlias = Callable[[tuple[Any, ...], Array], bool]


class RandomScaling(eqx.Module):
    r"""The problems of `family` in randomly scaled coordinates, for meta-training.

    $$\tilde f(\theta) = f(c \odot \theta), \qquad \tilde\theta_0 = \theta_0 / c, \qquad c_i = s_i\, e^{a_i}, \quad
    a_i \sim \mathrm{U}(-r, r)$$

    with $r$ = `log_range` and $c$ drawn anew for every task. Losses are those of `family` at the start and gradients are
    $c \odot \nabla f$, so a rule cannot count on their size. Lv, Jiang & Li 2017 ("Learning Gradient Descent: Better
    Generalization and Longer Horizons", section 4.1; $r$ = 3) find that it then goes further with other nets and longer runs; on
    the problems that it was trained on some of its lead is lost.

    With `signs`, $s_i = \pm 1$ by a fair coin, else 1. An LSTM is not an odd function of its gradients, and where the loss does
    not see a direction (softmax: what is added to all classes alike) nothing keeps its steps from adding up there. Random signs
    do: no step that has the same sign whatever the gradient can pay.

    Nothing of this is needed when the optimizer is used: the rule is the same, its training differs.

    **Arguments:**

    - `where`: `where(path, leaf)` says whether a leaf of the params is scaled, `path` as in `jax.tree_util.tree_map_with_path`.
        Default: all are.
    - `probability`: of a task being scaled at all. The rest keep $c = 1$, so that the original problems are learned too.

    ```python
    l2o.RandomScaling(mlp.family(), log_range=0.0, signs=True, where=lambda path, leaf: path[0].key == "output")
    ```

    **Raises:** `ValueError` for a `log_range` below 0 or not finite, for a `probability` that is not in (0, 1], if there is
    nothing to draw (`log_range` 0 without `signs`), and when called if `where` is true of no leaf.
    """

    family: TaskFamily
    log_range: float = eqx.field(static=True, default=3.0)
    signs: bool = eqx.field(static=True, kw_only=True, default=False)
    where: Where | None = eqx.field(static=True, kw_only=True, default=None)
    probability: float = eqx.field(static=True, kw_only=True, default=1.0)

    def __check_init__(self):
        check_callable(self.family)
        not_negative("log_range", self.log_range)
        share("probability", self.probability, zero=False)
        flags(signs=self.signs)
        if self.where is not None:
            kind("where", self.where, callable, "a function from a path and a leaf of the params to True or False")
        if self.log_range == 0 and not self.signs:
            raise ValueError(
                "`log_range` is 0 and `signs` is False, so that nothing would be scaled. Give one of them."
            )

    def __call__(self, key):
        task_key, scale_key = jax.random.split(key)
        task = self.family(task_key)
        return _Scaled(task, self._scales(jax.eval_shape(task.init, task_key), scale_key))

    def _scales(self, params, key):
        """$c$ in the structure of `params`."""
        ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), params)
        flat, unravel = ravel_pytree(ones)
        size_key, sign_key, chosen_key = jax.random.split(key, 3)
        scales = jnp.exp(jax.random.uniform(size_key, flat.shape, flat.dtype, -self.log_range, self.log_range))
        if self.signs:
            scales *= jax.random.rademacher(sign_key, flat.shape, flat.dtype)
        scales = unravel(jnp.where(jax.random.bernoulli(chosen_key, self.probability), scales, flat))
        if self.where is None:
            return scales
        chosen = jax.tree_util.tree_map_with_path(self.where, params)
        if not any(jax.tree.leaves(chosen)):
            paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
            raise ValueError(f"`where` is true of none of the params' leaves: {', '.join(paths)}.")
        return jax.tree.map(lambda is_scaled, scale, one: scale if is_scaled else one, chosen, scales, ones)


class _Scaled(AbstractTask):
    """`task` at `scale` times the params."""

    task: AbstractTask
    scale: Params

    def init(self, key):
        return jax.tree.map(jnp.divide, self.task.init(key), self.scale)

    def loss(self, params, key, *, split="train"):
        return self.task.loss(self._original(params), key, split=split)

    def metrics(self, params, key, *, split="test"):
        return self.task.metrics(self._original(params), key, split=split)

    def image(self, params):
        return self.task.image(self._original(params))

    def _original(self, params):
        return jax.tree.map(jnp.multiply, params, self.scale)
