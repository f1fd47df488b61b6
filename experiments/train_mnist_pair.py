"""Meta-trains the shipped `lstm-mnist-pair`, two LSTMs: python experiments/train_mnist_pair.py --folder runs/lstm-mnist-pair

As train_mnist.py, for the same nets, but with a rule for the hidden layers and one for the output layer, as the paper has two for
its convolutional nets (Andrychowicz et al. 2016, section 3.3). Stages, each skipped where its file is there:

1. imitate: the LSTMs learn to copy two hand-designed rules, `TEACHERS`, on recorded gradients (`_imitation`). The rates of these
   by step, and their constants, were found by a search and then by gradient descent through 200 steps (LOG.md);
   `search_teacher.py pair --gradient` finds such from a seed, with a loss 4 to 6 % lower.
2. train: back-propagation through 100 steps at a time, 200 in all, with second derivatives, the last steps before 100 and 200
   weighted up, the meta-loss on independent batches of 1,024, meta-parameters averaged.

Both run on the stand-in of train_mnist.py, images blurred over 2 x 2 pixels. experiments/mnist.py measures the result.

Needs the full MNIST (see docs/data.md). Twenty minutes of one core; `--quick` is the same in two minutes, on the shipped sample,
and ships nothing. Run again to go on after an interruption.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from _imitation import Fit, Plan, imitate, students
from _teacher import momentum, through
from train_mnist import blurred, facts, run, two_hundred_steps

import l2o
from l2o.meta.estimators.bptt import BPTT
from l2o.tasks import mlp

SHIPPED = Path(l2o.__file__).parent / "io" / "pretrained" / "lstm-mnist-pair.safetensors"
# fmt: off
RATES = {
    "hidden": {0: 0.00934, 3: 0.0286, 7: 0.0474, 15: 0.0911, 30: 0.121, 50: 0.162, 75: 0.121, 90: 0.0428, 100: 0.0452,
               115: 0.126, 150: 0.0718, 185: 0.0158, 200: 0.00882},
    "output": {0: 0.00884, 3: 0.0405, 7: 0.121, 15: 0.317, 30: 0.6, 50: 0.51, 75: 0.399, 90: 0.11, 100: 0.105,
               115: 0.386, 150: 0.25, 185: 0.0445, 200: 0.0267},
}
# fmt: on
OTHERS = {
    "hidden": {"b1": 0.8472, "b2": 0.967, "eps": 8.7e-5, "power": 0.343},
    "output": {"b1": 0.6857, "b2": 0.9953, "eps": 2.6e-6, "power": 0.48},
}
TEACHERS = {layer: momentum(through(rates), **OTHERS[layer]) for layer, rates in RATES.items()}
# What they preprocess gradients by, and what their outputs are multiplied by: hidden weights have smaller ones.
CONSTANTS = {
    "hidden": {"preprocessing": 7.0, "output_scale": 0.02},
    "output": {"preprocessing": 5.0, "output_scale": 0.2},
}
FULL = Plan(
    horizon=200,
    num_runs=4,
    num_coordinates=2000,
    fits=(
        Fit(300, 50, 5e-3, 96, False),
        Fit(300, 200, 4e-3, 96, False),
        Fit(600, 200, 4e-3, 96, True),
        Fit(800, 200, 2e-3, 96, True),
        Fit(600, 200, 2e-3, 96, True),
    ),
)
QUICK = Plan(
    horizon=200,
    num_runs=1,
    num_coordinates=50,
    fits=(Fit(10, 50, 5e-3, 20, False), Fit(10, 200, 4e-3, 20, True)),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/lstm-mnist-pair"))
    parser.add_argument("--cores", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-steps", type=int, default=500)
    arguments = parser.parse_args()
    l2o.use_all_cores(arguments.cores)
    data = "mnist_sample" if arguments.quick else "mnist"
    plan = QUICK if arguments.quick else FULL
    num_steps = 2 if arguments.quick else arguments.num_steps
    family = mlp.family(data=data)
    cheap = blurred(family)
    start_key, runs_key, train_key = jax.random.split(jax.random.key(arguments.seed), 3)
    imitated, trained = (arguments.folder / f"{stage}.safetensors" for stage in ("imitate", "train"))
    arguments.folder.mkdir(parents=True, exist_ok=True)

    if not imitated.exists():
        started = time.perf_counter()
        optimizer = imitate(students(start_key, plan.horizon, CONSTANTS), TEACHERS, [cheap], plan, runs_key)
        l2o.pretrained.save(imitated, optimizer, recipe={"seconds": time.perf_counter() - started})

    if not trained.exists():
        problem = two_hundred_steps(cheap, step_weights())
        rates = optax.warmup_cosine_decay_schedule(8e-5, 4e-4, 20, max(num_steps, 21), 2e-5)
        result = run(
            l2o.load(imitated),
            BPTT(problem, num_tasks=2, batch_size=1),
            l2o.default_outer_optimizer(rates, max_norm=0.5),
            num_steps=num_steps,
            key=train_key,
            average=0.95,
            folder=arguments.folder / "train",
        )
        recipe = {
            **facts(result, data, l2o.pretrained.header(imitated)["recipe"]["seconds"]),
            "stages": [
                f"imitation of two momentum rules, {plan.num_steps} meta-steps",
                f"bptt, 2 tasks, second derivatives, Adam, averaged meta-parameters, {num_steps} meta-steps",
            ],
            "estimator": "bptt with second derivatives, meta-loss on independent batches of 1024, steps up to 100 and 200 first",
            "seed": arguments.seed,
            "command": "python experiments/train_mnist_pair.py",
        }
        l2o.pretrained.save(trained, result.last, recipe=recipe, family=family)
        if not arguments.quick:
            SHIPPED.write_bytes(trained.read_bytes())


def step_weights():
    """Of the 200 steps: those just before 100, and less those before 200, count most."""
    return jnp.concatenate([late(100), 0.4 * late(100)])


def late(num_steps):
    """Weights of steps of which the last count most."""
    return 0.03 + 10 * (jnp.arange(1, num_steps + 1) / num_steps) ** 8


if __name__ == "__main__":
    main()
