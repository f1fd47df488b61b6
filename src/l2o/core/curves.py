"""Loss curves of any optimizer on fresh tasks."""

import functools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Key, PRNGKeyArray

from l2o.core import keys as _keys
from l2o.core import parallel
from l2o.core.checks import count, counts
from l2o.core.inner_loop import loss_key
from l2o.core.measured import Curves
from l2o.core.optimizer import Optimizer, check_optimizer, eval_params_of
from l2o.core.task import TaskFamily, check_callable
from l2o.core.unroll import begin, unroll


def evaluate(
    optimizer: Optimizer,
    family: TaskFamily,
    *,
    horizon: int,
    num_tasks: int,
    key: PRNGKeyArray,
    split: str = "train",
    metrics_splits: tuple[str, ...] = ("test",),
    batch_size: int | None = None,
    devices: Sequence[parallel.Device] | None = None,
) -> Curves:
    """Runs `optimizer` on `num_tasks` tasks for `horizon` steps.

    The same key gives the same tasks, starting points and minibatches, whatever the optimizer: compare optimizers on the
    same key, and tune them on another.

    **Arguments:** `batch_size`: tasks run at once (default: all of a device's). `devices`: default all local ones.
    `metrics_splits`: where metrics are taken; "accuracy" is that on "test", "train_accuracy" that on "train".
    Diverged runs are in the result as what they are: inf or NaN.

    **Raises:** `ValueError` for a `horizon` that is negative, or numbers that are not positive and whole; `TypeError` for what is
    no optimizer or no family.
    """
    key = _keys.one(key)
    check_optimizer("optimizer", optimizer)
    check_callable(family)
    count("horizon", horizon, at_least=0)
    counts(num_tasks=num_tasks, batch_size=batch_size)
    devices = parallel.share(num_tasks, devices)
    shares = jax.random.split(key, num_tasks).reshape(len(devices), -1)
    batch_size = min(batch_size or num_tasks, num_tasks // len(devices))
    arguments = [parallel.put((optimizer, family, keys), device) for keys, device in zip(shares, devices, strict=True)]
    options = {"horizon": horizon, "split": split, "metrics_splits": metrics_splits, "batch_size": batch_size}
    run = functools.partial(_run_tasks, **options)
    results = parallel.run_on_each(run, arguments)
    losses, metrics = jax.tree.map(lambda *parts: np.concatenate([np.asarray(p) for p in parts]), *results)
    return Curves(losses, metrics)


def loss_curves(
    optimizer: Optimizer,
    family: TaskFamily,
    *,
    horizon: int,
    num_tasks: int,
    key: PRNGKeyArray,
    batch_size: int | None = None,
    devices: Sequence[parallel.Device] | None = None,
) -> Float[np.ndarray, "num_tasks horizon_plus_1"]:
    """The losses of `evaluate`: entry [i, t] is task i's loss after t steps, on the minibatch of step t."""
    curves = evaluate(
        optimizer,
        family,
        horizon=horizon,
        num_tasks=num_tasks,
        key=key,
        batch_size=batch_size,
        devices=devices,
    )
    return curves.losses


def run_tasks(
    optimizer: Optimizer,
    family: TaskFamily,
    keys: Key[jax.Array, " num_tasks"],
    *,
    horizon: int,
    split: str = "train",
    metrics_splits: tuple[str, ...] = ("test",),
    batch_size: int | None = None,
    images: bool = False,
) -> tuple[Float[jax.Array, "num_tasks horizon_plus_1"], dict[str, Any]]:
    """The losses and final metrics of `evaluate`, to be compiled by the caller, a task for every key.

    `images`: the metrics hold "image", of tasks that are looked at rather than measured (`AbstractTask.image`).
    """

    def one_task(key):
        task, state, batch_key = begin(family, optimizer, key)
        state, losses = unroll(task, optimizer, state, batch_key, length=horizon, split=split)
        answer = (eval_params_of(optimizer) or (lambda _, params: params))(state.opt_state, state.params)
        last = task.loss(answer, loss_key(batch_key, state.step, split), split=split)
        metrics = {
            name if split == "test" else f"{split}_{name}": value
            for split in metrics_splits
            for name, value in task.metrics(answer, batch_key, split=split).items()
        }
        if images and (image := task.image(answer)) is not None:
            metrics = {**metrics, "image": image}
        return jnp.append(losses, last), metrics

    return jax.lax.map(one_task, keys, batch_size=batch_size or len(keys))


_run_tasks = eqx.filter_jit(run_tasks)
