"""Measures the shipped optimizers away from what they were trained on, for their cards: python experiments/measure_cards.py

Every baseline of the paper is tuned anew on each problem, on other keys. `--quick`: fewer tasks, on the shipped sample.
"""

import argparse

import jax

import l2o
from l2o.evaluation import analysis, comparison
from l2o.tasks import mlp, quadratic

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true")
parser.add_argument("--only", choices=["lstm-quadratic", "lstm-mnist"])
arguments = parser.parse_args()
l2o.use_all_cores()
data = "mnist_sample" if arguments.quick else "mnist"
# optimizer, problem, family, horizon, window, tasks
CASES = [
    ("lstm-quadratic", "uniform W, y (code preset)", quadratic.family(preset="code"), 100, 1, 512),
    ("lstm-quadratic", "30 dimensions", quadratic.family(dim=30), 100, 1, 512),
    ("lstm-quadratic", "1,000 steps", quadratic.family(), 1000, 1, 512),
    ("lstm-mnist", "40 hidden units", mlp.family(data=data, hidden=(40,)), 100, 10, 10),
    (
        "lstm-mnist",
        "two hidden layers of 20, fan-in start",
        mlp.family(data=data, hidden=(20, 20), init_std=None),
        100,
        10,
        10,
    ),
    ("lstm-mnist", "ReLU", mlp.family(data=data, activation="relu"), 100, 10, 10),
    ("lstm-mnist", "1,000 steps", mlp.family(data=data), 1000, 10, 6),
]


for name, problem, family, horizon, window, num_tasks in CASES:
    if arguments.only not in (None, name):
        continue
    num_tasks = max(4, num_tasks // 10) if arguments.quick else num_tasks
    panel = l2o.Panel(lambda: family, horizon, horizon, problem, window, None if name == "lstm-quadratic" else 1)  # noqa: B023
    found = comparison.compare(
        {problem: panel},
        (name, *l2o.baselines.PAPER_BASELINES),
        key=jax.random.key(7),
        num_tasks=num_tasks,
        tune_tasks=max(4, num_tasks // 4),
    )
    records, timed = found.records[problem], analysis.clock(found, problem)
    learned = analysis.loss_at(records[name], horizon, window).mean()
    best, ratio, low, high = analysis.ratio_to_best(records, name, horizon, window)
    print(f"{name} on {problem}: {learned:.4g}, {ratio:.2f} [{low:.2f}, {high:.2f}] of {best}", flush=True)
    if timed is not None:
        it = timed.optimizers[name]
        print(
            f"    in equal seconds, step {it.step}: {it.loss.value:.4g}, {it.ratio.value:.2f} "
            f"[{it.ratio.low:.2f}, {it.ratio.high:.2f}]; to {best}'s loss: {'' if it.reached else '> '}"
            f"{it.seconds_to_target / timed.seconds:.2f} times its seconds",
            flush=True,
        )
