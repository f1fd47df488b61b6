"""Makes the shipped `lstm-mnist-mixture`: python experiments/train_mnist_mixture.py --folder runs/lstm-mnist-mixture

As in train_mnist_pair.py, two LSTMs, one for the hidden layers and one for the output layer, but for four nets (`NETS`): the base
net, two hidden layers from the plateau of N(0, 0.01^2) and from a fan-in scaled start, and ReLU. They learn to copy two
hand-designed rules, `TEACHERS`, on gradients recorded on all four nets, and nothing else: back-propagation through the nets, four
at once, made them no better (LOG.md). The teachers' rates by step, and their constants, were found by evolution and gradient
descent on these nets, images blurred over 2 x 2 pixels, which is also what is recorded here (train_mnist.py).
`search_teacher.py mixture` is the same search from a seed; it has not been run to its end.

experiments/mnist.py measures the result. Needs the full MNIST (see docs/data.md). Five minutes of one core; `--quick` is the same
in two, on the shipped sample, and ships nothing.
"""

import argparse
import time
from pathlib import Path

import jax
from _imitation import Fit, Plan, imitate, students
from _teacher import momentum, through
from train_mnist import blurred
from train_mnist_pair import QUICK

import l2o
from l2o.tasks import mlp

SHIPPED = Path(l2o.__file__).parent / "io" / "pretrained" / "lstm-mnist-mixture.safetensors"
NETS = ({}, {"hidden": (20, 20)}, {"hidden": (20, 20), "init_std": None}, {"activation": "relu"})
# fmt: off
RATES = {
    "hidden": {0: 0.0184, 3: 0.306, 7: 0.142, 15: 0.0372, 30: 0.0722, 50: 0.107, 75: 0.0807, 90: 0.0487, 100: 0.0124,
               115: 0.0625, 150: 0.0617, 185: 0.0134, 200: 0.0252},
    "output": {0: 0.00509, 3: 0.0063, 7: 0.0832, 15: 0.494, 30: 0.442, 50: 0.315, 75: 0.408, 90: 0.0306, 100: 0.157,
               115: 0.269, 150: 0.574, 185: 0.0296, 200: 0.0311},
}
# fmt: on
OTHERS = {
    "hidden": {"b1": 0.8604, "b2": 0.99372, "eps": 1.1e-5, "power": 0.409},
    "output": {"b1": 0.7908, "b2": 0.99561, "eps": 3e-6, "power": 0.444},
}
TEACHERS = {layer: momentum(through(rates), **OTHERS[layer]) for layer, rates in RATES.items()}
# What they preprocess gradients by, and what their outputs are multiplied by. On the plateau hidden gradients begin at 1e-6.
CONSTANTS = {
    "hidden": {"preprocessing": 10.0, "output_scale": 0.02},
    "output": {"preprocessing": 5.0, "output_scale": 0.2},
}
FULL = Plan(
    horizon=200,
    num_runs=2,
    num_coordinates=2000,
    fits=(
        Fit(300, 50, 5e-3, 96, False),
        Fit(300, 200, 4e-3, 96, False),
        Fit(600, 200, 4e-3, 96, True),
        Fit(800, 200, 4e-3, 96, True),
        Fit(700, 200, 3e-3, 96, True),
        Fit(700, 200, 3e-3, 96, True),
        Fit(800, 200, 2e-3, 128, True),
    ),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/lstm-mnist-mixture"))
    parser.add_argument("--cores", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    l2o.use_all_cores(arguments.cores)
    data = "mnist_sample" if arguments.quick else "mnist"
    plan = QUICK if arguments.quick else FULL
    families = [blurred(mlp.family(data=data, **net)) for net in NETS]
    start_key, runs_key = jax.random.split(jax.random.key(arguments.seed))
    arguments.folder.mkdir(parents=True, exist_ok=True)  # rather than find out after five minutes

    started = time.perf_counter()
    optimizer = imitate(students(start_key, plan.horizon, CONSTANTS), TEACHERS, families, plan, runs_key)
    num_runs = plan.num_recorded * len(NETS)
    recipe = {
        "task": "mlp",
        "task_arguments": {"data": data},
        "nets": NETS,
        "horizon": plan.horizon,
        "stages": [f"imitation of two momentum rules on gradients recorded on four nets, {plan.num_steps} meta-steps"],
        "num_episodes": num_runs,
        "num_inner_steps": num_runs * plan.horizon,
        "seconds": round(time.perf_counter() - started),
        "machine": "CPU, one busy core",
        "seed": arguments.seed,
        "command": "python experiments/train_mnist_mixture.py",
    }
    weights = arguments.folder / "weights.safetensors"
    l2o.pretrained.save(weights, optimizer, recipe=recipe, family=mlp.family(data=data))
    if not arguments.quick:
        SHIPPED.write_bytes(weights.read_bytes())


if __name__ == "__main__":
    main()
