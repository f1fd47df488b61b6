"""MNIST (Andrychowicz et al. 2016, section 3.2): the base net, its transfers, and the grid of layers x units.

    python experiments/mnist.py            # full MNIST (docs/data.md); on one core the panels take some 20 minutes, the grid 35
    python experiments/mnist.py --quick    # the shipped sample, fewer nets, optimizers and seeds: two minutes

`lstm-mnist` and `lstm-mnist-pair`, meta-trained by train_mnist.py and train_mnist_pair.py on the base net (784-20-10, sigmoid)
for 200 steps, and `lstm-mnist-mixture`, by train_mnist_mixture.py on all these nets but that of 40 units, are run unchanged
everywhere, beside SGD, NAG, RMSprop and Adam, each tuned anew for each net and horizon on other keys, and beside their teachers,
the hand-designed rules that they imitated first. Stages:

- panels: the base net, tuned for 100 steps and run on to 200, then tuned for 200; 40 units; two layers from two starts; ReLU.
  40 seeds, tuned on 10 others.
- schedules: the same panels, the baselines offered cosine decay to the horizon, with and without a warm-up, beside a constant
  rate: 33 settings each instead of 11. Also Adam and NAG with a schedule and a rate for the hidden and one for the output
  layers (`_baselines`), 33 settings too, and five times as many, with the momentum tuned as well. Forty minutes of a core.
- grid: {1, 2, 3} hidden layers of {5, 10, 20, 40, 80} units, from N(0, 0.01^2) as the base net, and scaled by the fan-in.
  10 seeds, tuned on 4 others.

Losses are means over ten steps of minibatches of 128; intervals are of 95 %. Stopped, the same command goes on where it was.
"""

import argparse
import functools
from pathlib import Path

import _baselines
import jax
import matplotlib.pyplot as plt
import numpy as np
import train_mnist
import train_mnist_mixture
import train_mnist_pair
from _baselines import Budget
from _publish import RESULTS, publish, teacher_of, write_rows
from _teacher import together

import l2o
from l2o.evaluation import analysis, comparison, records, tuning
from l2o.evaluation.suites import paper
from l2o.report.styles import all_optimizers, styles
from l2o.tasks import mlp

# What they imitated before anything else; the pair and `lstm-mnist` were then meta-trained further.
TEACHERS = {
    "lstm-mnist-pair": together(train_mnist_pair.TEACHERS),
    "lstm-mnist-mixture": together(train_mnist_mixture.TEACHERS),
    "lstm-mnist": train_mnist.ANNEALED,
}
LEARNED = tuple(TEACHERS)
# The three decades around each rule's best constant rate: a narrower space than that of the others, to the rules' advantage.
RATES = {"adam": (1e-3, 1.0), "nag": (1e-2, 10.0)}
SAME = Budget(33, RATES)
LARGER = Budget(165, RATES, momenta=(0.5, 0.8, 0.9, 0.95))
LAYERS = (1, 2, 3)
UNITS = (5, 10, 20, 40, 80)
LOSSES = (0.25, 0.5, 1, 2)  # ticks
STARTS = {"N(0, 0.01²)": 0.01, "fan-in": None}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--stage", choices=["panels", "schedules", "grid"], help="only this stage")
    parser.add_argument("--folder", type=Path, default=Path("runs/mnist"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cores", type=int)
    arguments = parser.parse_args()
    l2o.use_all_cores(arguments.cores)
    panels_key, grid_key = jax.random.split(jax.random.key(arguments.seed))
    if arguments.stage in (None, "panels"):
        run(
            arguments,
            "mnist",
            panels(arguments.quick),
            panels_key,
            num_tasks=4 if arguments.quick else 40,
            tune_tasks=10,
        )
    if arguments.stage == "schedules" or (arguments.stage is None and not arguments.quick):
        run(
            arguments,
            "mnist-schedules",
            {name: panel._replace(run_to=panel.horizon) for name, panel in panels(arguments.quick).items()},
            panels_key,
            num_tasks=4 if arguments.quick else 40,
            tune_tasks=10,
            schedules=tuning.SCHEDULES,
            budgets={"": SAME, f", {LARGER.num_trials} trials": LARGER},
        )
    if arguments.stage in (None, "grid"):
        folder = arguments.folder / "mnist-grid"
        run(
            arguments,
            "mnist-grid",
            grid(arguments.quick),
            grid_key,
            num_tasks=3 if arguments.quick else 10,
            tune_tasks=4,
            figures=False,  # one of all, below
        )
        grid_figure(records.load(folder), folder / "grid.png", quick=arguments.quick)


def run(arguments, name, panels, key, *, num_tasks, tune_tasks, schedules=("constant",), budgets=None, figures=True):
    """`budgets`: of the baselines with a rate for each layer, by what is noted behind their names; default: none are run."""
    folder, quick = arguments.folder / name, arguments.quick
    learned = LEARNED[: 2 if quick else None]
    options = {
        "key": key,
        "num_tasks": num_tasks,
        "tune_tasks": 3 if quick else tune_tasks,
        "on_done": lambda panel, optimizer, record: print(f"{panel}: {optimizer}, {record.seconds:.0f} s", flush=True),
    }
    comparison.compare(
        panels,
        {
            **{n: n for n in learned},
            **{teacher_of(n): TEACHERS[n] for n in learned},
            **{n: n for n in l2o.baselines.PAPER_BASELINES},
        },
        search=l2o.Search((5 if quick else 11) * len(schedules), schedules=schedules),
        folder=folder,
        resume=(folder / "comparison.json").exists(),
        **options,
    )
    beside = []
    for note, budget in (budgets or {}).items():
        budget = budget._replace(num_trials=min(budget.num_trials, 15)) if quick else budget
        beside += _baselines.compare(panels, budget, folder / "scheduled", note=note, **options)
    publish(folder, name, quick=quick, figures=figures, beside=beside)
    if beside and not quick:
        write_rows(RESULTS / f"{name}-by-group.csv", _baselines.settings(folder / "scheduled"))


def panels(quick):
    # A run at a time: the states of an LSTM's run fit the cache, those of forty do not.
    found = {
        name: panel._replace(batch_size=1) for name, panel in paper.panels(quick).items() if name.startswith("mnist")
    }
    if quick:
        return found
    base = found["mnist"]
    return {**found, "mnist_tuned_for_twice": base._replace(horizon=base.run_to)}


def grid(quick):
    data, horizon = ("mnist_sample", 50) if quick else ("mnist", 100)
    return {
        name(layers, units, start): l2o.Panel(
            functools.partial(mlp.family, data=data, hidden=(units,) * layers, init_std=std),
            horizon,
            horizon,
            f"Andrychowicz et al. 2016, 3.2: {layers} hidden layers of {units}, start {start}",
            window=horizon // 10,
            batch_size=5,
            data=(data,),
            metrics_splits=("train", "test"),
        )
        for start, std in STARTS.items()
        for layers in (LAYERS[:2] if quick else LAYERS)
        for units in (UNITS[:1] if quick else UNITS)
    }


def name(layers, units, start):
    return f"{layers} x {units}, {start}"


def grid_figure(found, path, *, quick):
    """Final loss against the number of units, a column for each number of layers, a row for each start."""
    drawn_as = styles(all_optimizers(found))
    layers, units = (LAYERS[:2], UNITS[:1]) if quick else (LAYERS, UNITS)
    means = {(row["panel"], row["optimizer"]): (row["mean"], row["mean_interval"]) for row in analysis.all_rows(found)}
    size = (3.6 * len(layers), 6.4)
    fig, axes = plt.subplots(len(STARTS), len(layers), figsize=size, sharex=True, sharey="row", layout="constrained")
    for line, start in zip(axes, STARTS, strict=True):
        for axis, num in zip(line, layers, strict=True):
            for optimizer, style in drawn_as.items():
                found_there = [means[name(num, width, start), optimizer] for width in units]
                mean = np.array([m for m, _ in found_there])
                low, high = np.array([interval or (np.nan, np.nan) for _, interval in found_there]).T
                lengths = np.maximum([mean - low, high - mean], 0)
                axis.errorbar(
                    units, mean, lengths, color=style.colour, label=optimizer, marker="o", markersize=3, capsize=2
                )
            axis.set(xscale="log", yscale="log", title=f"{num} hidden layer{'s' if num > 1 else ''}, start {start}")
            axis.set_xticks(units, units)
            axis.set_yticks(LOSSES, LOSSES)
            axis.minorticks_off()
            axis.grid(alpha=0.25)
        line[0].set_ylabel(f"loss after {next(iter(found.panels.values())).horizon} steps [nats]")
    for axis in axes[-1]:
        axis.set_xlabel("units in each hidden layer")
    axes[0, -1].legend(fontsize=7.5)
    fig.savefig(path, dpi=150)
    print(path)
    if not quick:
        fig.savefig(RESULTS / "mnist-grid.png", dpi=150)


if __name__ == "__main__":
    main()
