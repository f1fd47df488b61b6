"""Tuning a baseline in one vectorised program against single runs, one after the other.

    python benchmarks/tuning.py [--rates 15] [--seeds 10] [--repeats 3]

The MNIST perceptron 784-20-10 of the shipped sample, minibatches of 128, 100 steps, Adam. The program of `l2o.tune` runs all
rates of a seed at once, and shares the seeds out to the cores; a single run is the same loop for one rate and one seed,
compiled once and called for each. All are compiled first, and timed in turn: median over repeats.
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import l2o
from l2o import _devices
from l2o.tasks import mlp
from l2o.tuning import final_losses

OPTIONS = {"horizon": 100, "final_steps": 10}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    l2o.use_all_cores()
    family, make = mlp.family(), l2o.baselines.get("adam").make
    rates = jnp.asarray(np.geomspace(1e-4, 10, arguments.rates), jnp.float32)
    keys = jax.random.split(jax.random.key(0), arguments.seeds)

    devices = _devices.share(len(keys))

    def compiled(rates, keys, device):
        inputs = _devices.put((rates, family, keys), device)
        started = time.perf_counter()
        program = eqx.filter_jit(final_losses).lower(make, *inputs, **OPTIONS).compile()
        return program, inputs, time.perf_counter() - started

    shares = [compiled(rates, k, d) for k, d in zip(keys.reshape(len(devices), -1), devices, strict=True)]
    single, _, compile_single = compiled(rates[:1], keys[:1], devices[0])
    each_seed = jnp.split(keys, len(keys))
    each_rate = jnp.split(rates, len(rates))

    def at_once():
        runs = _devices.run_on_each(lambda program, inputs, _: program(make, *inputs, **OPTIONS), shares)
        return np.concatenate([np.asarray(r) for r in runs], axis=1)

    def one_by_one():
        return np.array(
            [[np.asarray(single(make, r, family, k, **OPTIONS))[0, 0] for k in each_seed] for r in each_rate]
        )

    seconds = {at_once: [], one_by_one: []}
    for _ in range(arguments.repeats):
        for function, times in seconds.items():
            started = time.perf_counter()
            function()
            times.append(time.perf_counter() - started)
    together, alone = at_once(), one_by_one()
    # The same runs, summed in another order; at larger rates training is chaotic, and rounding grows.
    tame = np.asarray(rates) < 0.02
    np.testing.assert_allclose(together[tame], alone[tame], rtol=0.02)
    vectorised, singly = (float(np.median(s)) for s in seconds.values())
    num = arguments.rates * arguments.seeds
    # The first layer's product, forward and for its weights' gradient, is nearly all of the arithmetic.
    gigaflops = num * OPTIONS["horizon"] * 2 * 2 * 128 * 784 * 20 / 1e9
    print(
        f"{num} runs on {len(devices)} cores; compiling: {shares[0][2]:.1f} s at once, {compile_single:.1f} s of a single run"
    )
    print(
        f"at once {vectorised:.2f} s ({gigaflops / vectorised:.0f} GFLOP/s), singly {singly:.2f} s ({gigaflops / singly:.0f})"
    )
    share = vectorised / singly
    print("PASS" if share <= 1 / 3 else "FAIL", f"vectorised at most 1/3 of the sum of single runs: {share:.2f}")


if __name__ == "__main__":
    main()
