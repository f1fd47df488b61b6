r"""Meta-training from training loops that JAX knows nothing of: only the gradients that they saw are needed.

With derivatives of the gradients dropped, the meta-gradient of an unroll is that of
$\sum_t w_t \langle \nabla_t, \theta_t \rangle$ with $\nabla_t$ constant (see `l2o.core.unroll`). So a loop in another framework
runs as it is and records its gradients, and JAX replays the optimizer alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from l2o.core import keys
from l2o.core.checks import count, counts, kind
from l2o.core.meta_gradient.replay import later_gradients
from l2o.core.optimizer import AbstractCoordinatewise, AbstractLearnedOptimizer
from l2o.meta.estimators import AbstractGradientEstimator, Estimate
from l2o.meta.estimators._base import has_diverged, mean_of_finite
from l2o.optimizers import pretrained


@runtime_checkable
class Recording(Protocol):
    r"""An unroll of parameters that were stepped together; `l2o.torch.Recording` is one. Arrays speak DLPack or numpy.

    The step recorded is $\theta \leftarrow (1 - \eta\lambda)\,\theta + \eta\,u$.
    """

    params: Any  # [num] before the first step
    state: dict[str, Any]  # [..., num] leaves of the optimizer's state by path, before the first step
    gradients: Any  # [length, num]
    losses: Any  # [length]
    lr: Any  # [length] $\eta$
    weight_decay: Any  # [length] $\lambda$


class _Stepped(AbstractCoordinatewise):
    """A rule as the recorded loop applied it: with a rate and weight decay, fed along with the gradients."""

    rule: AbstractCoordinatewise

    def init_coordinates(self, num):
        return self.rule.init_coordinates(num)

    def update_coordinates(self, gradients, state, params):
        gradient, rate, decay = gradients
        updates, state = self.rule.update_coordinates(gradient, state, params)
        return rate * updates - rate * decay * params, state


def meta_gradient(
    optimizer: AbstractLearnedOptimizer,
    recordings: Sequence[Recording],
    *,
    truncation: int | None = None,
    block: int = 512,
) -> tuple[Float[Array, ""], PyTree]:
    r"""The meta-loss, mean of the recorded losses, and its gradient with respect to the optimizer's arrays.

    The recorded loop must have used this very optimizer. Equal to the gradient of `l2o.unroll`'s mean loss in the form
    `Stored()`, without the task.

    **Arguments:**

    - `recordings`: of every group of parameters, `Recorder.recordings()`.
    - `truncation`: the gradient is not carried over from one run of so many steps to the next; default: all steps are one.
    - `block`: coordinates replayed at a time; memory is O(length x block x state).

    **Raises:** `ValueError` if the optimizer is not coordinatewise, its state is not of the recorded kind, or `truncation`
    does not divide the number of steps.
    """
    if not isinstance(optimizer, AbstractCoordinatewise):
        raise ValueError(
            f"A recording is replayed in blocks of coordinates, which needs a coordinatewise optimizer, got "
            f"{type(optimizer).__name__}."
        )
    if not recordings:
        raise ValueError("There are no recordings: the loop took no step with the optimizer that it was given.")
    counts(truncation=truncation, block=block)
    gradients = []
    for recording in recordings:
        length, num = recording.gradients.shape
        steps = truncation or length
        if steps < 1 or length % steps:
            raise ValueError(
                f"`truncation` must divide the number of recorded steps, got truncation={truncation} and {length} steps."
            )
        arguments = (
            _to_jax(recording.params),
            _state(optimizer, recording.state, num),
            _to_jax(recording.gradients),
            _to_jax(recording.lr),
            _to_jax(recording.weight_decay),
        )
        gradients.append(_replayed_gradient(optimizer, *arguments, truncation=steps, block=max(1, min(block, num))))
    total = jax.tree.map(lambda *g: sum(g[1:], start=g[0]), *gradients)
    return jnp.mean(_to_jax(recordings[0].losses)), total


@eqx.filter_jit
def _replayed_gradient(optimizer, params, opt_state, gradients, lr, weight_decay, *, truncation, block):
    length = len(gradients)
    arrays, static = eqx.partition(optimizer, eqx.is_inexact_array)

    def to_truncations(x):
        return x.reshape(length // truncation, truncation, *x.shape[1:])

    def surrogate(arrays, params, opt_state, gradients):
        rule = _Stepped(eqx.combine(arrays, static))

        def one_truncation(carry, inputs):
            params, opt_state = jax.lax.stop_gradient(carry)
            updates, opt_state = rule.run_coordinates(inputs, opt_state, params)
            value = jnp.sum(updates * later_gradients(inputs[0] / length))
            return (params + jnp.sum(updates, axis=0), opt_state), value

        inputs = jax.tree.map(to_truncations, (gradients, lr, weight_decay))
        return jnp.sum(jax.lax.scan(one_truncation, (params, opt_state), inputs)[1])

    def one_block(total, coordinates):
        return jax.tree.map(jnp.add, total, jax.grad(surrogate)(arrays, *coordinates)), None

    blocks = jax.tree.map(lambda x: _to_blocks(x, size=block), (params, opt_state, gradients))
    return jax.lax.scan(one_block, jax.tree.map(jnp.zeros_like, arrays), blocks)[0]


def _to_blocks(x, *, size):
    """[..., num] -> [num_blocks, ..., size], padded with zeros."""
    num_blocks = -(-x.shape[-1] // size)
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, num_blocks * size - x.shape[-1])])
    return jnp.moveaxis(padded.reshape(*x.shape[:-1], num_blocks, size), -2, 0)


def _state(optimizer, leaves, num):
    """The optimizer's state from its leaves by path."""

    def fill(key, leaf):
        path = jax.tree_util.keystr(key)
        if path not in leaves or tuple(leaves[path].shape) != leaf.shape:
            found = tuple(leaves[path].shape) if path in leaves else "nothing"
            raise ValueError(
                f"The recording is of another optimizer (leaf {path} of its state: {found} vs {leaf.shape})."
            )
        return _to_jax(leaves[path])

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(lambda: optimizer.init_coordinates(num)))


def _to_jax(array):
    return jnp.from_dlpack(array) if hasattr(array, "__dlpack__") else jnp.asarray(array)


class RecordedLoop(AbstractGradientEstimator):
    r"""Truncated back-propagation through whole runs of your own PyTorch training loop.

    ```python
    def loop(make_optimizer, seed):
        torch.manual_seed(seed)
        model = ...
        optimizer = make_optimizer(model.parameters())
        for x, y in batches:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()


    result = l2o.meta_train(start, RecordedLoop(loop, num_tasks=4), num_steps=200, key=key)
    ```

    `make_optimizer` is `l2o.torch.LearnedOptimizer` with the present meta-parameters, `seed` an integer, other for every run.
    Each meta-step runs the loop `num_tasks` times from its start, one after the other, and takes the mean of the runs'
    meta-gradients; $\varphi$ is held for the whole of a run. The replay compiles once if runs have the same number of steps
    and of parameters.

    **Arguments:** `truncation`, `block`: as of `meta_gradient`.
    """

    jitted: ClassVar[bool] = False

    loop: Callable[[Callable[..., Any], int], Any] = eqx.field(static=True)
    num_tasks: int = eqx.field(static=True)
    truncation: int | None = eqx.field(static=True, default=None)
    block: int = eqx.field(static=True, default=512)
    problem: None = eqx.field(static=True, default=None)

    def __check_init__(self):
        kind("loop", self.loop, callable, "a function `loop(make_optimizer, seed)`")
        count("num_tasks", self.num_tasks)
        counts(truncation=self.truncation, block=self.block)

    def init(self, optimizer, key):
        return ()

    def estimate(self, optimizer, state, key):
        # The only place where JAX and PyTorch meet.
        from l2o.torch import LearnedOptimizer, Recorder

        weights = pretrained.as_dict(optimizer)
        losses, gradients = [], []
        for seed in np.asarray(jax.random.bits(keys.one(key), (self.num_tasks,), "uint32")).tolist():
            recorder = Recorder()
            with recorder:
                self.loop(lambda params, **options: LearnedOptimizer(params, weights, **options), seed)
            recordings = recorder.recordings()
            loss, gradient = meta_gradient(optimizer, recordings, truncation=self.truncation, block=self.block)
            losses.append(loss)
            gradients.append(gradient)
        diverged = jnp.stack([has_diverged(*one) for one in zip(losses, gradients, strict=True)])
        stacked = jnp.stack(losses), jax.tree.map(lambda *g: jnp.stack(g), *gradients)
        meta_loss, gradient = mean_of_finite(stacked, diverged)
        return Estimate(meta_loss, gradient, jnp.sum(diverged)), state
