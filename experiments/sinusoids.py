"""Ten thousand damped sinusoids, solved by a designed rule and by what else there is: python experiments/sinusoids.py

Five parameters each, as in examples/design.py. Two questions, each of 10,000 fresh problems:

- share: how many are unsolved (a loss above 0.01) after 20 steps, of a rule that `l2o.design` made for that (`target=0.01`)?
- seconds: how long until 99 % of them are below 0.004? The rules are designed for some numbers of steps, and the first that
  solves 99 % counts. Adam and NAG are tuned for the same target, with and without schedules, at some numbers of steps. L-BFGS
  is optax's with its line search, Levenberg-Marquardt optimistix's (`pip install optimistix`), which sees residuals. All
  problems are one vectorised program on all cores, compiled before; how many steps it takes is known, so no losses are looked
  at on the way. The median of five runs, the contenders in turn.

Results: experiments/LOG.md. Ten minutes for each design, twelve of them by default; `--minutes 1` says nearly the same.
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import l2o
from l2o.core import parallel
from l2o.core.finals import FinalLosses, like
from l2o.evaluation.design import tuned
from l2o.evaluation.design.plan import FINE
from l2o.optimizers.wrappers.chain import chain

GRID = np.linspace(0, 1, 64, dtype=np.float32)
LOW, HIGH, START = np.float32([[0.5, 0.5, 2, -1, -0.5], [2, 3, 6, 1, 0.5], [1, 1, 4, 0, 0]])
STEPS = (8, 12, 16, 20, 30, 40, 60, 80, 120, 160)
NUM, SOLVED = 10_000, 0.99


def wave(p):
    return p[0] * jnp.exp(-p[1] * GRID) * jnp.sin(p[2] * GRID + p[3]) + p[4]


def curve(key):
    return wave(LOW + (HIGH - LOW) * jax.random.uniform(key, (5,)))


def family(key):
    target = curve(key)
    return l2o.FunctionTask(lambda key: jnp.asarray(START), lambda p, key: jnp.mean((wave(p) - target) ** 2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--question", choices=["share", "seconds"])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, nargs="+", default=[12, 16, 20, 30])
    parser.add_argument("--cores", type=int)
    arguments = parser.parse_args()
    l2o.use_all_cores(arguments.cores)
    design_key, tune_key, test_key = jax.random.split(jax.random.key(0), 3)
    test_keys = jax.random.split(test_key, NUM)
    if arguments.question != "seconds":
        found = l2o.design(family, horizon=20, target=0.01, minutes=arguments.minutes, key=design_key)
        for name, rule in (("designed", found.optimizer), (f"{found.baseline.optimizer}", found.baseline.optimizer)):
            tell(name, Runner(rule, 20), test_keys, 0.01)
        tell("adam at 0.1", Runner(l2o.HandDesigned("adam", 20, rate=0.1), 20), test_keys, 0.01)
    if arguments.question != "share":
        seconds(arguments, design_key, tune_key, test_keys)


def seconds(arguments, design_key, tune_key, test_keys, target=0.004):
    def designed(steps):
        found = l2o.design(
            family, horizon=steps, target=target, minutes=arguments.minutes, key=design_key, by="seconds"
        )
        return found.optimizer

    def tuned_to(name):
        def make(steps):
            keys, options = jax.random.split(tune_key, 256), {"num_evals": 1, "batch_size": 64, "target": target}
            found = tuned.tune_baseline(name, family, keys, FINE, horizon=steps, **options)
            return tuned.as_rule(name, steps, found).rule

        return make

    lbfgs = lambda steps: chain(optax.lbfgs())
    first = {
        "designed": first_to_solve(lambda n: Runner(designed(n), n), arguments.steps, test_keys, target),
        **{
            n: first_to_solve(lambda k, n=n: Runner(tuned_to(n)(k), k), STEPS, test_keys, target)
            for n in ("adam", "nag")
        },
        "L-BFGS": first_to_solve(lambda n: Runner(lbfgs(n), n), STEPS, test_keys, target),
        "Levenberg-Marquardt": first_to_solve(LevenbergMarquardt, range(4, 40, 2), test_keys, target),
    }
    runners = {name: runner for name, runner in first.items() if runner is not None}
    times = {name: [] for name in runners}
    for _ in range(5):
        for name, runner in runners.items():
            started = time.perf_counter()
            runner(test_keys)
            times[name].append(time.perf_counter() - started)
    for name, measured in times.items():
        print(f"{name}: {runners[name].steps} steps, {np.median(measured):.3f} s for {NUM:,} problems", flush=True)


def first_to_solve(make, all_steps, keys, target):
    """The first that solves enough of the problems."""
    for steps in all_steps:
        runner = make(steps)
        if tell(f"{runner.name}, {steps} steps", runner, keys, target) >= SOLVED:
            return runner
    print("    never enough", flush=True)
    return None


def tell(name, runner, keys, target):
    losses = runner(keys)
    share = float(np.mean(losses <= target))
    print(f"{name}: {100 * (1 - share):.2f} % unsolved, mean loss {np.mean(losses):.3g}", flush=True)
    return share


class Runner:
    """A rule for so many steps."""

    def __init__(self, rule, steps):
        self.steps, self.name = steps, str(rule) if isinstance(rule, l2o.HandDesigned) else type(rule).__name__
        arrays, make = jax.tree.map(lambda x: x[None], eqx.filter(rule, eqx.is_inexact_array)), like(rule)
        if not jax.tree.leaves(arrays):  # nothing in it is learned
            arrays, make = jnp.zeros(1), lambda _: rule
        self._values, self._losses = arrays, FinalLosses(make, family, horizon=steps)

    def __call__(self, keys):
        return self._losses(self._values, keys)[0]


class LevenbergMarquardt:
    """optimistix's, stopped after so many steps, accepted or not."""

    def __init__(self, steps):
        import optimistix

        self.steps, self.name = steps, "Levenberg-Marquardt"
        solver = optimistix.LevenbergMarquardt(rtol=1e-8, atol=1e-8)

        def one(key):
            target = curve(jax.random.split(key)[0])
            residuals = lambda p, _: wave(p) - target
            found = optimistix.least_squares(residuals, solver, jnp.asarray(START), max_steps=steps, throw=False)
            return jnp.mean(residuals(found.value, None) ** 2)

        self._program = parallel.jit_for_now(jax.vmap(one))

    def __call__(self, keys):
        devices = parallel.share(len(keys))
        parts = [parallel.put((part,), d) for part, d in zip(keys.reshape(len(devices), -1), devices, strict=True)]
        return np.concatenate([np.asarray(x) for x in parallel.run_on_each(self._program, parts)])


if __name__ == "__main__":
    main()
