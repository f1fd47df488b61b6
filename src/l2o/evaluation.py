"""Loss curves of any optimizer on fresh tasks, and intervals for what they show."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from l2o import _devices
from l2o._inner import begin, unroll
from l2o._optimizer import Optimizer
from l2o._task import TaskFamily


class Curves(NamedTuple):
    """What `evaluate` measured."""

    losses: Float[np.ndarray, "num_tasks horizon_plus_1"]  # [:, t] is the loss after t steps
    metrics: dict[str, Float[np.ndarray, " num_tasks"]]  # of the params after `horizon` steps


def evaluate(
    optimizer: Optimizer,
    family: TaskFamily,
    *,
    horizon: int,
    num_tasks: int,
    key: PRNGKeyArray,
    split: str = "train",
    metrics_split: str = "test",
    batch_size: int | None = None,
    devices: Sequence[_devices.Device] | None = None,
) -> Curves:
    """Runs `optimizer` on `num_tasks` tasks for `horizon` steps.

    The same key gives the same tasks, starting points and minibatches, whatever the optimizer: compare optimizers on the
    same key, and tune them on another.

    **Arguments:** `batch_size`: tasks run at once (default: all of a device's). `devices`: default all local ones.
    Diverged runs are in the result as what they are: inf or NaN.
    """
    devices = _devices.share(num_tasks, devices)
    shares = jax.random.split(key, num_tasks).reshape(len(devices), -1)
    batch_size = min(batch_size or num_tasks, num_tasks // len(devices))
    arguments = [_devices.put((optimizer, family, keys), device) for keys, device in zip(shares, devices, strict=True)]
    run = functools.partial(_evaluate, horizon, split, metrics_split, batch_size)
    results = _devices.run_on_each(run, arguments)
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
    devices: Sequence[_devices.Device] | None = None,
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


@eqx.filter_jit
def _evaluate(horizon, split, metrics_split, batch_size, optimizer, family, keys):
    def one_task(key):
        task, state, batch_key = begin(family, optimizer, key)
        state, losses = unroll(task, optimizer, state, batch_key, length=horizon, split=split)
        _, last = unroll(task, optimizer, state, batch_key, length=1, split=split)
        eval_params = getattr(optimizer, "eval_params", lambda opt_state, params: params)
        metrics = task.metrics(eval_params(state.opt_state, state.params), batch_key, split=metrics_split)
        return jnp.concatenate([losses, last]), metrics

    return jax.lax.map(one_task, keys, batch_size=batch_size)


def bootstrap_interval(
    values: Float[np.ndarray, " num"],
    statistic: Callable[..., np.ndarray] = np.mean,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic(values, axis)` over tasks (Efron 1979)."""
    resamples = _resample(values, num_resamples, seed)
    low, high = np.quantile(statistic(resamples, axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def ratio_interval(
    numerator: Float[np.ndarray, " num"],
    denominator: Float[np.ndarray, " num"],
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Ratio of means of paired values (same tasks), with its paired bootstrap interval: (ratio, low, high)."""
    paired = np.stack([numerator, denominator], axis=1)
    means = _resample(paired, num_resamples, seed).mean(axis=1)
    low, high = np.quantile(means[:, 0] / means[:, 1], [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(np.mean(numerator) / np.mean(denominator)), float(low), float(high)


def _resample(values, num_resamples, seed):
    index = np.random.default_rng(seed).integers(0, len(values), (num_resamples, len(values)))
    return np.asarray(values)[index]
