"""Time and memory of one unroll's meta-gradient, in every form, against plain autodiff through the unroll.

    python benchmarks/meta_gradient.py [--repeats 9]

The MNIST perceptron 784-20-10 of the shipped sample, batches of 128, 20 inner steps, the 2x20 LSTM, single precision, one
core. "Plain" is the loop as one would write it: the optimizer's input is not differentiated, the loss is, through the
optimizee. All forms are compiled first and then timed in turn, so that a busy machine disturbs all alike; the figures
are medians. The floor counts the LSTM's matrix products only, forward, replay and backward; `Blocks` needs the latter two
only for the coordinates that some loss sees: pixels that are black in all batches leave theirs without a gradient.
"""

import argparse
import os
import time

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before jax starts its threads

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import l2o
from l2o.optimizers import lstm
from l2o.tasks import mlp

LENGTH = 20


def plain_unroll(task, optimizer, state, key):
    """Plain autodiff: gradients are stopped at the optimizer's input, nowhere else."""

    def step(state, _):
        step_key = jax.random.fold_in(key, state.step)
        loss = task.loss(state.params, step_key)
        gradient = jax.lax.stop_gradient(jax.grad(task.loss)(state.params, step_key))
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = jax.tree.map(jnp.add, state.params, updates)
        return l2o.InnerState(params, opt_state, state.step + 1), loss

    return jax.lax.scan(step, state, length=LENGTH)


def meta_gradient(unroll):
    def gradient(optimizer, task, state, key):
        return eqx.filter_grad(lambda o: jnp.mean(unroll(task, o, state, key)[1]))(optimizer)

    return gradient


def of_form(form):
    return meta_gradient(
        lambda task, optimizer, state, key: l2o.unroll(task, optimizer, state, key, length=LENGTH, meta_gradient=form)
    )


def fraction_seen(task, state, key):
    """Of coordinates: those that have a gradient at some step after the first."""
    keys = [jax.random.fold_in(key, t) for t in range(1, LENGTH)]
    seen = [ravel_pytree(jax.grad(task.loss)(state.params, k))[0] != 0 for k in keys]
    return float(jnp.mean(jnp.any(jnp.stack(seen), axis=0)))


def matmul_peak(repeats, size=512, products=200):
    """Best measured GFLOP/s of a product of the second layer's shape, [80, 40] @ [40, size]."""
    w = jax.random.normal(jax.random.key(0), (80, 40)) / 10
    x = jax.random.normal(jax.random.key(1), (10, 40, size))

    @jax.jit
    def run(w, x):
        return jax.lax.scan(lambda c, i: (0.5 * c + w @ x[i % 10], None), jnp.zeros((80, size)), jnp.arange(products))[
            0
        ]

    seconds = in_turn({"peak": lambda: run(w, x)}, repeats)["peak"]
    return 2 * 80 * 40 * size * products / np.min(seconds) / 1e9


def in_turn(functions, repeats):
    """Seconds of every function, called A B C A B C ... after a first call each that is not counted."""
    seconds = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            jax.block_until_ready(function())
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats

    family, optimizer = mlp.family(), lstm.build(jax.random.key(0), preset="code")
    task, state, key = l2o.begin(family, optimizer, jax.random.key(1))
    arguments = (optimizer, task, state, key)
    num = ravel_pytree(state.params)[0].size
    seen = fraction_seen(task, state, key)
    # Multiply-adds of one step and coordinate; a backward pass takes two products where a forward pass takes one.
    forward = 2 * sum(cell.weight.size for cell in optimizer.cells) * num * LENGTH / 1e9
    forms = {  # the function, and its products in units of `forward`: run, recomputed, backward
        "plain": (meta_gradient(plain_unroll), (1, 0, 2)),
        "SecondOrder()": (of_form(l2o.SecondOrder()), (1, 0, 2)),
        "Stored()": (of_form(l2o.Stored()), (1, 1, 2)),
        "Blocks()": (of_form(l2o.Blocks()), (1, seen, 2 * seen)),
        "Sampled(0.1)": (of_form(l2o.Sampled(0.1)), (1, 0.1, 0.2)),
    }
    compiled = {name: eqx.filter_jit(f).lower(*arguments).compile() for name, (f, _) in forms.items()}
    megabytes = {n: c.compiled.memory_analysis().temp_size_in_bytes / 1e6 for n, c in compiled.items()}
    gradients = {name: np.asarray(ravel_pytree(c(*arguments))[0]) for name, c in compiled.items()}
    seconds = in_turn({name: (lambda c=c: c(*arguments)) for name, c in compiled.items()}, repeats)
    milliseconds = {name: 1e3 * np.median(values) for name, values in seconds.items()}
    peak = matmul_peak(repeats)

    def error(name):
        return np.linalg.norm(gradients[name] - gradients["plain"]) / np.linalg.norm(gradients["plain"])

    print(f"{num} coordinates, {100 * seen:.0f} % seen, {LENGTH} steps; peak of the matrix product {peak:.0f} GFLOP/s")
    print(
        f"{'form':14}{'ms':>8}{'faster':>8}{'MB':>8}{'smaller':>9}{'error':>10}"
        f"{'GFLOP run+again+back':>22}{'floor ms':>10}{'GFLOP/s':>9}"
    )
    for name, (_, passes) in forms.items():
        flops = [forward * p for p in passes]
        print(
            f"{name:14}{milliseconds[name]:8.0f}{milliseconds['plain'] / milliseconds[name]:8.2f}"
            f"{megabytes[name]:8.1f}{megabytes['plain'] / megabytes[name]:9.1f}{error(name):10.1e}"
            f"{' + '.join(f'{f:.1f}' for f in flops):>22}{1e3 * sum(flops) / peak:10.0f}"
            f"{1e3 * sum(flops) / milliseconds[name]:9.1f}"
        )

    exact = ("Stored()", "Blocks()")  # both are the default: where the states fit the cache, and where not, as here
    fastest = min(exact, key=milliseconds.get)
    bars = {
        f"the faster exact form, {fastest}, at least 2.5 times: {milliseconds['plain'] / milliseconds[fastest]:.2f}":
            milliseconds["plain"] >= 2.5 * milliseconds[fastest],
        f"Blocks() in at most 1/20 of the temporaries: 1/{megabytes['plain'] / megabytes['Blocks()']:.1f}":
            megabytes["plain"] >= 20 * megabytes["Blocks()"],
        f"equal to 1e-5: {max(map(error, exact)):.1e}": max(map(error, exact)) <= 1e-5,
        f"Sampled(0.1) at least 6 times faster: {milliseconds['plain'] / milliseconds['Sampled(0.1)']:.2f}":
            milliseconds["plain"] >= 6 * milliseconds["Sampled(0.1)"],
    }  # fmt: skip
    for bar, met in bars.items():
        print("PASS" if met else "FAIL", bar)


if __name__ == "__main__":
    main()
