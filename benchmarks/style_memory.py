"""Memory of meta-training on neural art, and what its meta-gradient costs in passes through VGG-16.

    python benchmarks/style_memory.py [--quick]

Content 64 x 64 pixels, VGG-16, unroll 32, the 2x20 LSTM, one task, single precision, one core. Needs the data of
docs/style.md; `--quick` takes drawn shapes of 16 x 16 pixels, random features and needs none.

Memory is the peak resident size of a fresh process that makes one meta-step: Python, JAX, data and compilation included.
Operations are counted in the programs: multiplications and additions of the matrix products that the network's convolutions
are made of, loops included. `SecondOrder` differentiates the optimizee twice, as plain autodiff through the unroll does; at
unroll 4, so that it fits. Times are the least of `--repeats`.
"""

import argparse
import math
import os
import resource
import subprocess
import sys
import time

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before jax starts its threads

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import l2o
from l2o.meta.estimators.bptt import BPTT
from l2o.optimizers import lstm
from l2o.tasks import style

FORMS = {"Stored": l2o.Stored(), "Blocks": l2o.Blocks(), "Sampled(0.25)": l2o.Sampled(0.25)}
UNROLL, SHORT = 32, 4


def family(quick):
    if quick:
        return style.family()
    return style.family(data="content_64", style="starry_night", size=64, features="vgg16")


def losses(optimizer, family, key, *, length, form=None):
    """The mean loss of an unroll."""
    task = family(key)
    state = l2o.start(task, optimizer, key)
    return jnp.mean(l2o.unroll(task, optimizer, state, key, length=length, meta_gradient=form)[1])


def meta_gradient(optimizer, family, key, *, length, form=None):
    return eqx.filter_value_and_grad(losses)(optimizer, family, key, length=length, form=form)


def network_flops(function, *arguments, **keywords):
    """Multiplications and additions of the feature network's matrix products in one call of `function`."""
    arrays, static = eqx.partition((arguments, keywords), eqx.is_array)

    def of_arrays(arrays):
        arguments, keywords = eqx.combine(arrays, static)
        return eqx.filter(function(*arguments, **keywords), eqx.is_array)

    return _count(jax.make_jaxpr(of_arrays)(arrays).jaxpr, inside=False)


def _count(jaxpr, inside):
    total = 0
    for equation in jaxpr.eqns:
        within = inside or "features" in str(equation.source_info.name_stack)
        if within and equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        if equation.primitive.name == "custom_vjp_call":  # its rules are functions, its program is the first
            inner = [equation.params["call_jaxpr"]]
        else:
            inner = [j for value in equation.params.values() for j in (value if isinstance(value, tuple) else (value,))]
        repeated = equation.params["length"] if equation.primitive.name == "scan" else 1
        for each in inner:
            each = getattr(each, "jaxpr", each)
            if hasattr(each, "eqns"):
                total += repeated * _count(each, within)
    return total


def meta_step(form, quick):
    """One real meta-step of meta-training, after which the process's peak memory is printed."""
    problem = l2o.InnerTraining(family(quick), 128, UNROLL, meta_gradient=FORMS[form])
    l2o.meta_train(
        lstm.build(jax.random.key(0)), BPTT(problem, num_tasks=1), optax.adam(1e-3), num_steps=1, key=jax.random.key(1)
    )
    factor = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--meta-step", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.meta_step:
        return meta_step(arguments.meta_step, arguments.quick)

    for form in FORMS:
        command = [sys.executable, __file__, "--meta-step", form, *(["--quick"] if arguments.quick else [])]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"one meta-step, unroll {UNROLL}, {form}: peak resident memory {peak / 2**30:.2f} GiB", flush=True)

    optimizer, problem, key = lstm.build(jax.random.key(0)), family(arguments.quick), jax.random.key(2)
    inputs = (optimizer, problem, key)
    forward = network_flops(losses, *inputs, length=SHORT)
    seconds = {}
    cases = {"the unroll alone": (losses, None), "Stored": (meta_gradient, l2o.Stored())}
    cases["SecondOrder"] = (meta_gradient, l2o.SecondOrder())
    for name, (function, form) in cases.items():
        flops = network_flops(function, *inputs, length=SHORT, form=form)
        run = eqx.filter_jit(function)
        jax.block_until_ready(run(*inputs, length=SHORT, form=form))
        seconds[name] = math.inf
        for _ in range(arguments.repeats):
            started = time.perf_counter()
            jax.block_until_ready(run(*inputs, length=SHORT, form=form))
            seconds[name] = min(seconds[name], time.perf_counter() - started)
        print(
            f"unroll {SHORT}, {name}: network {flops / 1e9:.2f} GFLOP, {flops / forward:.2f} of the unroll's; "
            f"{1e3 * seconds[name]:.0f} ms, {seconds[name] / seconds['the unroll alone']:.2f} of the unroll's",
            flush=True,
        )


if __name__ == "__main__":
    main()
