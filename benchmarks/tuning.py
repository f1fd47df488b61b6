"""Tuning a baseline in one vectorised program against single runs, one after the other.

    python benchmarks/tuning.py [--rates 15] [--seeds 10] [--repeats 3]

The MNIST perceptron 784-20-10 of the shipped sample, minibatches of 128, 100 steps, Adam. Two readings of "single runs":

- as one would tune by hand, compiling included on both sides: `l2o.tune` once, against `l2o.evaluate(adam(rate), ...)` for every
  rate and seed (a program for every rate, kept for its seeds);
- the run time alone: the program of `tune`, all cores, against one program that takes the rate, called for every rate and seed.

Beside them the floor: the time of the first layer's matrix products, nearly all of the arithmetic, at the speed that XLA
reaches with them alone. The last two are timed in turn: medians over repeats.
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import l2o
from l2o.core import parallel
from l2o.evaluation.tuning import final_losses
from l2o.tasks import mlp

HORIZON = 100
OPTIONS = {"horizon": HORIZON, "final_steps": 10}


def seconds_of(function):
    started = time.perf_counter()
    result = function()
    return result, time.perf_counter() - started


def products_alone(num_rates):
    """A function that does one run's share of the first layer's products: 128 x 784 by 784 x 20, and back, at every step."""
    x, W = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(128, 784), (784, 20 * num_rates)]))

    @jax.jit
    def run(W):
        return jax.lax.scan(lambda W, _: (W + 1e-9 * (x.T @ (x @ W)), None), W, length=HORIZON)[0]

    return lambda: jax.block_until_ready(run(W))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    l2o.use_all_cores()
    family, make = mlp.family(), l2o.baselines.get("adam").make
    rates = np.geomspace(1e-4, 10, arguments.rates)
    key = jax.random.key(0)
    keys = jax.random.split(key, arguments.seeds)
    num = arguments.rates * arguments.seeds
    devices = parallel.share(len(keys))

    tuned, by_tune = seconds_of(lambda: l2o.tune(make, rates, family, num_tasks=len(keys), key=key, **OPTIONS))

    def by_hand():
        for rate in rates:
            optimizer = make(float(rate))
            for k in keys:
                l2o.evaluate(optimizer, family, horizon=HORIZON, num_tasks=1, key=k)

    _, singly = seconds_of(by_hand)
    print(f"{num} runs of {HORIZON} steps, {len(devices)} cores")
    print(f"by hand: tune {by_tune:.1f} s, single runs {singly:.1f} s, compiling included")

    def compiled(rates, keys, device):
        inputs = parallel.put((jnp.asarray(rates, jnp.float32), family, keys), device)
        return eqx.filter_jit(final_losses).lower(make, *inputs, **OPTIONS).compile(), inputs

    shares = [compiled(rates, k, d) for k, d in zip(keys.reshape(len(devices), -1), devices, strict=True)]
    single, _ = compiled(rates[:1], keys[:1], devices[0])
    each_seed = jnp.split(keys, len(keys))
    each_rate = jnp.split(jnp.asarray(rates, jnp.float32), len(rates))
    floor = products_alone(arguments.rates)

    def at_once():
        runs = parallel.run_on_each(lambda program, inputs: program(make, *inputs, **OPTIONS), shares)
        return np.concatenate([np.asarray(r) for r in runs], axis=1)

    def one_by_one():
        return np.array(
            [[np.asarray(single(make, r, family, k, **OPTIONS))[0, 0] for k in each_seed] for r in each_rate]
        )

    floor()
    times = [[seconds_of(f)[1] for f in (at_once, one_by_one, floor)] for _ in range(arguments.repeats)]
    vectorised, alone, products = np.median(times, axis=0)
    products *= len(keys)
    print(f"run time: at once {vectorised:.2f} s, one by one {alone:.2f} s ({vectorised / alone:.2f})")
    print(f"floor: the products alone {products:.2f} s on all cores, {products / alone:.2f} of one by one")
    # The same runs, summed in another order; at larger rates training is chaotic, and rounding grows.
    tame = rates < 0.02
    np.testing.assert_allclose(at_once()[tame], one_by_one()[tame], rtol=0.02)
    np.testing.assert_allclose(tuned.losses[tame], at_once()[tame].mean(axis=1), rtol=0.02)
    share = by_tune / singly
    print("PASS" if share <= 1 / 3 else "FAIL", f"tuning costs at most 1/3 of the sum of single runs: {share:.2f}")


if __name__ == "__main__":
    main()
