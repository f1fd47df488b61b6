r"""The inner loop, and the exact first-order meta-gradient through it.

One inner step is $\theta_{t+1} = \theta_t + u_t$ with $[u_t, h_{t+1}] = m(\nabla_t, h_t; \varphi)$. When derivatives of
$\nabla_t$ are dropped (Andrychowicz et al. 2016, section 2), the meta-gradient of $\sum_t w_t f(\theta_t)$ never needs a
derivative *through* the optimizee: the derivative of $f$ at $\theta_t$ is $\nabla_t$, which the forward pass has in hand.
So

$$\frac{dL}{d\varphi} = \frac{\partial}{\partial\varphi} \sum_t \langle c_t,\, u_t(\varphi; \nabla_1 \dots \nabla_t)\rangle,
\qquad c_t = \sum_{s > t} w_s \nabla_s,$$

with $c_t$ and $\nabla_t$ constants. `unroll` has that as its derivative, in the forms of `l2o.core.meta_gradient`. Gradients
that a rule takes itself, of the `value_fn` that it is handed, are constants as well, so that all forms agree on every rule that
they take.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from l2o.core import keys
from l2o.core.checks import count
from l2o.core.inner_loop import InnerState, InnerStep, Run
from l2o.core.meta_gradient.forms import AbstractMetaGradient, Blocks, Stored, check_form
from l2o.core.optimizer import AbstractLearnedOptimizer, Optimizer, check_optimizer, silenced
from l2o.core.task import AbstractTask, TaskFamily, task_key


def start(task: AbstractTask, optimizer: Optimizer, key: PRNGKeyArray) -> InnerState:
    """The state before the first inner step."""
    params = task.init(keys.one(key))
    return InnerState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def begin(family: TaskFamily, optimizer: Optimizer, key: PRNGKeyArray) -> tuple[AbstractTask, InnerState, PRNGKeyArray]:
    """A task drawn from `family`, the start of an inner training run on it, and the key of its minibatches.

    Everything that happens in an episode follows from its `key`, whatever the optimizer.
    """
    key = keys.one(key)
    task = family(task_key(key))
    return task, start(task, optimizer, keys.of_start(key)), keys.of_batches(key)


def unroll(
    task: AbstractTask,
    optimizer: Optimizer,
    state: InnerState,
    key: PRNGKeyArray,
    *,
    length: int,
    split: str = "train",
    meta_gradient: AbstractMetaGradient | None = None,
    record: Callable[[InnerStep], PyTree] | None = None,
) -> tuple[InnerState, Any]:
    r"""Takes `length` inner steps, and returns the losses $f(\theta_t)$ *before* each of them.

    Step $t$ draws its minibatch with `fold_in(key, t)`, $t$ counted from the start of the episode, so an unroll can be
    cut anywhere and gives the same numbers.

    **Arguments:**

    - `optimizer`: learned, or any optax transformation; extra arguments `value`, `grad` and `value_fn` are passed on.
    - `split`: which loss is returned (and meta-differentiated). "train" is the loss of the minibatch that the gradient
        was taken on; any other split costs a second evaluation, on an independent batch: a less noisy meta-gradient.
    - `meta_gradient`: how a derivative of the result is computed: `Stored()`, `Blocks()`, `Sampled()` or
        `SecondOrder()`. Default: `Stored()`, or `Blocks()` where storing would take over 16 MiB on a CPU, 1 GiB elsewhere.
        In all but the last, gradients that a rule takes of `value_fn` are constants too.
    - `record`: what is returned of every step, stacked, in the place of the losses [length]: a function of an `InnerStep`, such
        as `lambda step: (step.loss, step.updates)`. With `Stored()` and `SecondOrder()` only.

    **Raises:** `ValueError` for a `length` that is negative or no whole number, and for a form that the optimizer cannot have.
    """
    count("length", length, at_least=0)
    check_optimizer("optimizer", optimizer)
    check_form(meta_gradient)
    key = keys.one(key)
    optimizer = silenced(optimizer, length)  # warnings need effects, which a derivative has none of
    if meta_gradient is None:
        meta_gradient = Stored() if record is not None else default_form(optimizer, state.params, length)
    if (why := meta_gradient.why_not(optimizer, state.params)) is not None:
        raise ValueError(why)
    final, found = meta_gradient.unroll(optimizer, state, Run(task, key, length, split, record))
    # Counted here: a step number out of a custom derivative would pass for differentiable in the next unroll.
    return InnerState(final.params, final.opt_state, state.step + length), found


# Where `Stored` would take more than this many bytes for all tasks that run side by side, `Blocks` is chosen instead. A CPU
# writes and reads memory beyond its cache more slowly than it replays; an accelerator wants all coordinates at once while
# they fit.
_STORED_LIMIT = 2**30
_STORED_LIMIT_CPU = 2**24


def default_form(optimizer: Optimizer, params: PyTree, length: int, num_together: int = 1) -> AbstractMetaGradient:
    """The form that `unroll` takes where none is asked for, of `num_together` unrolls side by side."""
    if not isinstance(optimizer, AbstractLearnedOptimizer) or Blocks().why_not(optimizer, params) is not None:
        return Stored()
    state = jax.eval_shape(optimizer.init, params)
    bytes_per_step = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    limit = _STORED_LIMIT_CPU if jax.default_backend() == "cpu" else _STORED_LIMIT
    return Blocks() if num_together * length * bytes_per_step > limit else Stored()
