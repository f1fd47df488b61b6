"""Time and memory of a step of several optimizers, measured side by side."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from l2o.core import keys, parallel
from l2o.core.checks import count, kind, not_negative
from l2o.core.coordinates import conjugate
from l2o.core.inner_loop import InnerState
from l2o.core.optimizer import check_optimizer, with_extra_args
from l2o.core.task import TaskFamily, check_callable
from l2o.core.unroll import begin, unroll
from l2o.evaluation.costs import StepCost


def step_costs(
    optimizers: Mapping[str, Any],
    family: TaskFamily,
    *,
    key: PRNGKeyArray,
    num_steps: int = 10,
    seconds: float = 0.1,
) -> dict[str, StepCost]:
    """Step costs of all `optimizers` on a task of `family`, timed in turn so that a busy machine disturbs all alike.

    Whole steps are timed, `num_steps` of them from the start of a task, on the first device; and every optimizer's update by
    itself. (Their sum with a gradient's time is not a step's: a program of its own costs its share, and in a whole step much is
    done at once. It was off by a quarter, both ways.) Of one that evaluates the loss itself, in a line search, the update is what
    a step takes beyond a gradient: how often it evaluates depends on the gradients. Times are medians over rounds A B C A B C ...
    that go on for about `seconds` an optimizer (three rounds at least).
    """
    kind("optimizers", optimizers, Mapping, 'a mapping from names to optimizers, such as {"adam": optax.adam(1e-3)}')
    for name, optimizer in optimizers.items():
        check_optimizer(f"optimizers[{name!r}]", optimizer)
    check_callable(family)
    count("num_steps", num_steps)
    not_negative("seconds", seconds)
    task, start, batch_key = begin(family, optax.identity(), key)
    params, sizes = start.params, {}
    calls: dict[tuple[str, Any], Any] = {}  # by optimizer, and what of it
    for name, optimizer in optimizers.items():
        opt_state = optimizer.init(params)
        arrays = jax.tree.leaves(eqx.filter(opt_state, eqx.is_array))
        sizes[name] = [
            sum(x.size * x.dtype.itemsize for x in arrays),
            sum(x.size for x in jax.tree.leaves(params)),
        ]
        inputs = (optimizer, task, params, opt_state, batch_key, num_steps)
        calls[name, _steps] = inputs
        if _evaluates(optimizer, task, params, opt_state, batch_key):
            calls["", _gradients] = (task, params, batch_key, num_steps)
        else:
            calls[name, _updates] = inputs

    def compiled(call):
        (_, run), inputs = call
        program = parallel.jit_for_now(run)
        jax.block_until_ready(program(*inputs))
        return program, inputs

    with ThreadPoolExecutor(len(jax.local_devices())) as pool:  # compiling takes longer than all that is measured
        functions = dict(zip(calls, pool.map(compiled, calls.items()), strict=True))
    times = {name: [] for name in functions}
    rounds, started = 0, time.perf_counter()
    while rounds < 4 or (rounds < 50 and time.perf_counter() - started < seconds * len(optimizers)):
        for name, (program, inputs) in functions.items():
            begun = time.perf_counter()
            jax.block_until_ready(program(*inputs))
            times[name].append(time.perf_counter() - begun)
        rounds += 1
    milliseconds = {name: 1e3 * float(np.median(t[1:])) / num_steps for name, t in times.items()}  # the first warms up
    costs = {}
    for name in optimizers:
        whole = milliseconds[name, _steps]
        alone = milliseconds.get((name, _updates), whole - milliseconds.get(("", _gradients), 0.0))
        costs[name] = StepCost(whole, max(alone, 0.0), *sizes[name])
    return costs


def _gradients(task, params, key, num_steps):
    """Losses and gradients of moving params: nothing is hoisted out of the loop."""

    def step(params, index):
        loss, gradient = jax.value_and_grad(task.loss)(params, keys.of_step(key, index))
        return jax.tree.map(lambda p, g: p - 1e-9 * g, params, conjugate(gradient)), loss

    return jax.lax.scan(step, params, jnp.arange(num_steps))


def _updates(optimizer, task, params, opt_state, key, num_steps):
    """Updates alone. The params stand in for the gradient: they change from step to step, so no update is hoisted."""
    optimizer = with_extra_args(optimizer)

    def step(carry, _):
        params, opt_state = carry
        extra = {"value": jnp.ones(()), "grad": params, "value_fn": lambda params: task.loss(params, key)}
        updates, opt_state = optimizer.update(params, opt_state, params, **extra)
        return (optax.apply_updates(params, updates), opt_state), None

    return jax.lax.scan(step, (params, opt_state), length=num_steps)[0]


def _steps(optimizer, task, params, opt_state, key, num_steps):
    """Whole steps: gradients, updates, and whatever evaluations these make."""
    return unroll(task, optimizer, InnerState(params, opt_state, jnp.zeros((), jnp.int32)), key, length=num_steps)


def _evaluates(optimizer, task, params, opt_state, key):
    """Whether an update evaluates the loss."""
    calls = []

    def loss(params):
        calls.append(params)
        return task.loss(params, key)

    def update(value):
        extra = {"value": value, "grad": params, "value_fn": loss}
        return with_extra_args(optimizer).update(params, opt_state, params, **extra)

    eqx.filter_eval_shape(update, jnp.ones(()))
    return bool(calls)
