"""What a step of `l2o.Momentum` costs, in JAX and in PyTorch, against each framework's Adam.

    python benchmarks/momentum.py [--num 1000000] [--repeats 31]

The whole update step on a million parameters in 20 tensors, single precision, gradients given: in JAX jitted and with params
and state donated, against `optax.adam`; in PyTorch against `torch.optim.Adam(foreach=True)`. Powers 0, 1/4, 1/2 and 0.37, the
last one standing for any that has no root of its own. Everything is warmed up and then timed in turn, A B C A B C, so that a
busy machine disturbs all alike; ms are medians, and "over Adam" is the median of the ratios within each turn. Each framework
and number of threads has a process of its own, pinned to that many cores before any thread starts: threads of two frameworks
that wait for work on the same cores slow each other down a hundredfold.

The floor is what must be moved in any case, at the speed at which a large tensor is scaled in place here: gradient, parameter,
m and v read, and all but the gradient written, 28 bytes a parameter; without v 20. XLA makes a few loops of a step. PyTorch
makes one of every operation, and so moves 80 bytes where Adam moves 72.

Bar: at most 1.5 times Adam, and for any other power 2.5 times.
"""

import argparse
import functools
import itertools
import os
import subprocess
import sys
import time

POWERS = {0.0: 1.5, 0.25: 1.5, 0.5: 1.5, 0.37: 2.5}
TENSORS = 20  # as many as a small network has, so that their handling is paid for


def jax_step(optimizer, gradients):
    import jax
    import jax.numpy as jnp
    import optax

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    gradients = [jnp.asarray(g) for g in gradients]
    now = [[jnp.zeros_like(g) for g in gradients]]
    now.append(jax.tree.map(jnp.array, optimizer.init(now[0])))

    def run():
        now[:] = jax.block_until_ready(step(*now, gradients))

    return run


def torch_step(make, gradients):
    import torch

    params = [torch.nn.Parameter(torch.zeros(len(g))) for g in gradients]
    for p, g in zip(params, gradients, strict=True):
        p.grad = torch.from_numpy(g.copy())
    return make(params).step


def rule(power):
    import l2o

    return l2o.Momentum(1000, rate=1e-3, warmup=0.1, decay="cosine", power=power)


def jax_entries(gradients, threads):
    import optax

    rules = {"Adam": optax.adam(1e-3), **{power: rule(power) for power in POWERS}}
    return {name: jax_step(optimizer, gradients) for name, optimizer in rules.items()}


def torch_entries(gradients, threads):
    import torch

    from l2o.optimizers import pretrained
    from l2o.torch import LearnedOptimizer

    torch.set_num_threads(threads)
    weights = {power: pretrained.as_dict(rule(power)) for power in POWERS}
    makes = {power: functools.partial(LearnedOptimizer, weights=held) for power, held in weights.items()}
    makes = {"Adam": functools.partial(torch.optim.Adam, lr=1e-3, foreach=True), **makes}
    return {name: torch_step(make, gradients) for name, make in makes.items()}


def in_turn(functions, repeats):
    """Seconds of every function, after two calls each that are not counted."""
    import numpy as np

    seconds = {name: [] for name in functions}
    for repeat in range(repeats + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if repeat >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def measure(framework, threads, num, repeats):
    """In a process of its own: prints the rows of the table."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    # On a busy machine PyTorch's threads, which wait in a loop by default, slow each other down tenfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    import numpy as np

    gradients = np.array_split(np.random.default_rng(0).normal(size=num).astype(np.float32) * 1e-2, TENSORS)
    entries = (jax_entries if framework == "JAX" else torch_entries)(gradients, threads)
    large = np.ones(20_000_000, np.float32)
    speed = 2 * large.nbytes * threads / np.median(in_turn({"": lambda: np.multiply(large, 1, out=large)}, 9)[""])
    seconds = in_turn(entries, repeats)
    for power, values in seconds.items():
        floor = num * (20 if power == 0 else 28) / speed
        over = np.median(values / seconds["Adam"])
        verdict = "" if power == "Adam" else f"{'PASS' if over <= POWERS[power] else 'FAIL'} (bar {POWERS[power]})"
        name = power if power == "Adam" else f"power {power}"
        ms = np.median(values)
        print(f"| {framework}, {name} | {threads} | {1e3 * ms:.2f} | {over:.2f} | {ms / floor:.1f} | {verdict} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--in-process", nargs=2, metavar=("FRAMEWORK", "THREADS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_process:
        framework, threads = arguments.in_process
        measure(framework, int(threads), arguments.num, arguments.repeats)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    print("| one step | threads | ms | over Adam | over the floor | |\n|---|---|---|---|---|---|", flush=True)
    for threads, framework in itertools.product(sorted({1, cores}), ("JAX", "torch")):
        command = [sys.executable, __file__, "--in-process", framework, str(threads)]
        command += ["--num", str(arguments.num), "--repeats", str(arguments.repeats)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
