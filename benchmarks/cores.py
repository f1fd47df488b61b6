"""How much faster meta-training is on two cores than on one.

    python benchmarks/cores.py [--steps 20] [--repeats 3]

The same `meta_train` run in a fresh process for each number of cores. The process is pinned to that many cores before JAX
starts, so that "one core" is one core for XLA's own threads too, and JAX sees one device per core. Each run is done once
to compile; the median of the seconds of the runs after that is compared. The meta-losses must agree up to rounding where
the runs draw the same tasks; here they only have to be finite, since every device draws its own.
"""

import argparse
import json
import os
import subprocess
import sys
import time

BAR = 1.6


def runs():
    """The meta-training runs: name -> (optimizer, estimator)."""
    import jax

    import l2o
    from l2o.meta.estimators.bptt import BPTT
    from l2o.optimizers import lstm
    from l2o.tasks import mlp, quadratic

    key = jax.random.key(0)
    quadratics = l2o.InnerTraining(quadratic.family(), 100, 20)
    perceptrons = l2o.InnerTraining(mlp.family(), 100, 20, meta_gradient=l2o.Blocks())
    return {
        "quadratic": (lstm.build(key, preset="raw"), BPTT(quadratics, num_tasks=128)),
        "mlp": (lstm.build(key, preset="code"), BPTT(perceptrons, num_tasks=4, batch_size=1)),
    }


def measure(num_cores, steps, repeats):
    """In a process of its own: prints the median seconds of each run as JSON."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-num_cores:])

    import jax
    import numpy as np

    import l2o

    l2o.use_all_cores(num_cores)
    assert len(jax.devices()) == num_cores
    seconds = {}
    for name, (optimizer, estimator) in runs().items():
        times = []
        for repeat in range(repeats + 1):
            stamps = []
            result = l2o.meta_train(
                optimizer,
                estimator,
                num_steps=steps + 1,
                key=jax.random.key(1),
                on_step=lambda row, stamps=stamps: stamps.append(time.perf_counter()),
            )
            assert np.isfinite(result.history[-1]["meta_loss"])
            if repeat:
                times.append(stamps[-1] - stamps[0])  # without the start: tasks, keys and the first meta-step
        seconds[name] = float(np.median(times))
    print(json.dumps(seconds))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--in-process", type=int, metavar="CORES", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_process:
        measure(arguments.in_process, arguments.steps, arguments.repeats)
        return

    seconds = {}
    for num_cores in (1, 2):
        command = [sys.executable, __file__, "--in-process", str(num_cores)]
        command += ["--steps", str(arguments.steps), "--repeats", str(arguments.repeats)]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        seconds[num_cores] = json.loads(printed.splitlines()[-1])
    print(f"{'run':12}{'1 core, s':>12}{'2 cores, s':>12}{'ratio':>8}")
    for name, one in seconds[1].items():
        two = seconds[2][name]
        print(f"{name:12}{one:12.2f}{two:12.2f}{one / two:8.2f}  {'PASS' if one >= BAR * two else 'FAIL'}")
    print(f"Bar: one core takes at least {BAR} times as long as two.")


if __name__ == "__main__":
    main()
