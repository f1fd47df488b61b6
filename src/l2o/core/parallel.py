"""Work spread over devices, one program on each.

XLA runs a scan on one core of a CPU, and collectives between host devices have been seen to deadlock. So every device
runs its own program on its share of the tasks, dispatched from a thread of its own, and results are joined on the host.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import equinox as eqx
import jax
from jaxtyping import PyTree

from l2o.core.checks import kind

# A `jax.Device`, which type checkers do not take for a type.
Device: TypeAlias = Any


def use_all_cores(num: int | None = None) -> None:
    """Makes JAX see `num` CPU devices (default: one for each core this process may use).

    Call it before the first computation. The command line tool does.

    **Raises:** `RuntimeError` if JAX has already started.
    """
    if num is None:
        num = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", num)


def chosen(devices: Sequence[Device] | None) -> list[Device]:
    """The `devices`, or all local ones for None.

    **Raises:** `ValueError` if there are none among them, `TypeError` for what is no device.
    """
    if devices is None:
        return jax.local_devices()
    kind("devices", devices, Sequence, "a sequence of devices, such as `jax.local_devices()`")
    if not devices:
        raise ValueError("`devices` must be at least one, or None for all local ones, got none.")
    for i, device in enumerate(devices):
        kind(f"devices[{i}]", device, jax.Device, "a device, such as one of `jax.local_devices()`")
    return list(devices)


def share(num_items: int, devices: Sequence[Device] | None = None) -> list[Device]:
    """As many of the devices (default: all local ones) as divide `num_items` evenly."""
    devices = chosen(devices)
    count = next(n for n in range(min(len(devices), num_items), 0, -1) if num_items % n == 0)
    return devices[:count]


def put(tree: PyTree, device: Device) -> PyTree:
    """The pytree with its arrays on `device`."""
    arrays, static = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.device_put(arrays, device), static)


def jit_for_now(function: Callable[..., Any]) -> Callable[..., Any]:
    """`eqx.filter_jit` whose programs are freed with it.

    JAX keeps those of global functions, in hundreds of memory maps each; 30 panels had all 65,530 that Linux allows a process.
    """

    def run(arrays, leaves, treedef):
        return function(*eqx.combine(arrays, jax.tree.unflatten(treedef, leaves)))

    run.__name__ = function.__name__  # in profiles and logs
    jitted = jax.jit(run, static_argnums=(1, 2))

    def call(*args):
        arrays, static = eqx.partition(args, eqx.is_array)
        leaves, treedef = jax.tree.flatten(static)
        return jitted(arrays, tuple(leaves), treedef)

    return call


def run_on_each(function: Callable[..., Any], arguments: Sequence[tuple]) -> list[Any]:
    """`[function(*a) for a in arguments]`, each in its own thread; arguments already lie on their devices."""
    if len(arguments) == 1:
        return [jax.block_until_ready(function(*arguments[0]))]
    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(lambda a: jax.block_until_ready(function(*a)), arguments))
