"""One step of every shipped optimizer on a million parameters, in PyTorch and in JAX, against each framework's Adam.

    python benchmarks/torch_step.py [--num 1000000] [--repeats 11]

Of those, that is, that take params of any kind. One core, single precision, gradients given, state donated where JAX can.
Everything is warmed up and then timed in turn, A B C A B C, so that a busy machine disturbs all alike; figures are medians,
and "twin" is the median of the ratios within each turn. "CPU" is the time that the process had the core for, all threads:
what the clock shows when nobody else wants it. Then where the time goes: what a step must compute and move, at the peaks
measured here, and the parts of one step, alone (the least of their times). The trajectories are compared by
benchmarks/torch_trajectory.py.
"""

import argparse
import functools
import os
import time

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before any threads start

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import l2o
from l2o.torch import LearnedOptimizer, _optimizer


def jax_step(optimizer, num, gradient):
    """A function that takes one step and waits for it, and the bytes of state."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = jnp.zeros(num)
    now = [params, jax.tree.map(jnp.array, optimizer.init(params))]
    gradient = jnp.asarray(gradient)

    def run():
        now[:] = jax.block_until_ready(step(*now, gradient))

    return run, sum(leaf.nbytes for leaf in jax.tree.leaves(now[1]))


def torch_step(make, num, gradient):
    # As many tensors as a small network has, so that their handling is paid for.
    params = [torch.nn.Parameter(part.clone()) for part in torch.zeros(num).tensor_split(20)]
    for p, g in zip(params, torch.from_numpy(gradient).tensor_split(20), strict=True):
        p.grad = g.clone()
    optimizer = make(params)
    optimizer.step()
    tensors = [t for state in optimizer.state.values() for t in state.values()]
    return optimizer.step, sum(t.numel() * t.element_size() for t in tensors)


def in_turn(functions, repeats):
    """Seconds of every function by the clock and of CPU, [2, repeats], after a first call each that is not counted."""
    seconds = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            clock, cpu = time.perf_counter(), time.process_time()
            function()
            if repeat:
                seconds[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    return {name: np.array(values).T for name, values in seconds.items()}


def table(num, repeats):
    gradient = np.random.default_rng(0).normal(size=num).astype(np.float32) * 1e-2
    entries = {"torch Adam": torch_step(lambda p: torch.optim.Adam(p, 1e-3), num, gradient)}
    entries["optax Adam"] = jax_step(optax.adam(1e-3), num, gradient)
    for name in l2o.pretrained.names(partitioned=False):
        make = functools.partial(LearnedOptimizer, weights=name)
        entries[f"{name}, torch"] = torch_step(make, num, gradient)
        entries[f"{name}, JAX"] = jax_step(l2o.load(name), num, gradient)
    seconds = in_turn({name: run for name, (run, _) in entries.items()}, repeats)
    print(f"| one step, {num} parameters | ms | ms of CPU | state, bytes a parameter | twin / JAX | of CPU |")
    print("|---|---|---|---|---|---|")
    ratios = {}
    for name, (_, size) in entries.items():
        ratio = " | "
        if name.endswith(", torch"):
            base = name.removesuffix(", torch")
            clock, cpu = np.median(seconds[name] / seconds[f"{base}, JAX"], axis=1)
            ratios[base], ratio = clock, f"{clock:.2f} | {cpu:.2f}"
        clock, cpu = 1e3 * np.median(seconds[name], axis=1)
        print(f"| {name} | {clock:.1f} | {cpu:.1f} | {size / num:.0f} | {ratio} |")
    return ratios, {name: np.median(values[1]) for name, values in seconds.items()}


def roofline(name, num, seconds, repeats):
    """Where a step of the LSTM goes: floors at measured peaks, and its parts, each timed alone on the same blocks."""
    optimizer = LearnedOptimizer([torch.nn.Parameter(torch.zeros(1))], name)
    rule = optimizer._rule(0, torch.device("cpu"))
    size = _optimizer._BLOCK * torch.get_num_threads()
    units, layers = rule.num_units, len(rule.cells)
    inputs = [weight.shape[1] for weight, _ in rule.cells]
    x = [torch.randn(k, size) for k in inputs]
    out, half = torch.empty(4 * units, size), torch.randn(units, size)
    big = torch.randn(20_000_000)
    large, inner = torch.randn(512, 512), torch.empty(512, 512)
    blocks = num / size

    def products():
        for (weight, bias), inputs in zip(rule.cells, x, strict=True):
            torch.addmm(bias, weight, inputs, out=out)

    def logistic():
        for _ in range(layers):
            out.sigmoid_()  # four gates, the candidate's by way of it
            half.sigmoid_()  # tanh of the cell

    def elementwise():
        for _ in range(layers):
            for tensor in (half, half):  # the two tanh around their logistic functions
                tensor.mul_(2).mul_(2).sub_(1)
            half.mul_(half).addcmul_(half, half)
            torch.mul(half, half, out=out[:units])
            out[:units].copy_(half)

    functions = {
        "products": products,
        "logistic": logistic,
        "elementwise": elementwise,
        "peak product": lambda: torch.mm(large, large, out=inner),
        "peak copy": lambda: big.mul_(1.0),
    }
    with torch.no_grad():
        best = {key: values[0].min() for key, values in in_turn(functions, 10 * repeats).items()}
    flops = sum(2 * 4 * units * k for k in inputs) * num
    state = 4 * 2 * layers * units * num
    peak_flops, peak_bytes = 2 * 512**3 / best["peak product"], 2 * 4 * len(big) / best["peak copy"]
    print(f"\n{name}: {flops / num:.0f} flops of matrix products, {5 * units * layers} logistic functions a parameter")
    print(
        f"{2 * state / num:.0f} bytes of state read and written a parameter, "
        f"{2 * state / num + 16:.0f} with gradient, parameter and update"
    )
    print(f"peaks: {peak_flops / 1e9:.0f} GFLOP/s (product 512^3), {peak_bytes / 1e9:.1f} GB/s (scaling in place)\n")
    print("| part | ms | |\n|---|---|---|")
    print(f"| floor, flops at peak | {1e3 * flops / peak_flops:.0f} | |")
    print(f"| floor, bytes at peak | {1e3 * (2 * state + 16 * num) / peak_bytes:.0f} | |")
    for part in ("products", "logistic", "elementwise"):
        note = f"{flops / (best[part] * blocks) / 1e9:.0f} GFLOP/s" if part == "products" else "in cache"
        print(f"| {part}, alone | {1e3 * best[part] * blocks:.0f} | {note} |")
    print(f"| the step | {1e3 * seconds:.0f} | CPU, median |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=11)
    arguments = parser.parse_args()
    num, repeats = arguments.num, arguments.repeats
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, jax {jax.__version__}\n")
    ratios, seconds = table(num, repeats)
    for name in l2o.pretrained.names(partitioned=False):
        if l2o.pretrained.header(name)["architecture"] == "lstm":
            roofline(name, num, seconds[f"{name}, torch"], repeats)
    print()
    for name, ratio in ratios.items():
        print("PASS" if ratio <= 1.3 else "FAIL", f"{name}: the twin's step at most 1.3 times JAX's: {ratio:.2f}")


if __name__ == "__main__":
    main()
