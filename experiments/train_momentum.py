"""Searches and measures the shipped `momentum-mnist`: python experiments/train_momentum.py --folder runs/momentum-mnist

Nesterov momentum over a power of the mean square (`l2o.Momentum`), one set of constants for the hidden layers and one for the
output layer of the paper's MNIST nets: what `lstm-mnist-pair` is for, at Adam's price. Stages, each skipped where its file is
there:

1. search: `l2o.search` (CMA-ES) on the base net, 784-20-10 from N(0, 0.01^2), for 100 steps, on other seeds than those that it
   is measured on, as the baselines are tuned. From every pair of powers that are as cheap as Adam's, and then on from the best.
2. ship: the weights, with the size of the gradients that they know.
3. measure: on the paper's panels, 40 seeds, beside the LSTMs and the baselines with schedules (33 settings each), in steps and in
   seconds. Published as experiments/results/mnist-momentum.csv.

    python experiments/train_momentum.py --quick   # two minutes, on the shipped sample; publishes nothing

Needs the full MNIST (see docs/data.md). Half an hour of one core, six minutes of it for the search.
"""

import argparse
import time
from pathlib import Path

import jax
from _publish import publish

import l2o
from l2o.evaluation import comparison, tuning
from l2o.evaluation.suites import paper
from l2o.tasks import mlp

SHIPPED = Path(l2o.__file__).parent / "io" / "pretrained" / "momentum-mnist.safetensors"
HORIZON = 100
POWERS = [(hidden, output) for hidden in (0.25, 0.5) for output in (0.25, 0.5)]
GRADIENT_RMS = 0.0017  # of a coordinate of the first gradient, in the median
PANELS = ("mnist", "mnist_40_units", "mnist_2_layers_fan_in", "mnist_relu")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--stage", choices=["search", "ship", "measure"], help="only this stage")
    parser.add_argument("--folder", type=Path, default=Path("runs/momentum-mnist"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cores", type=int)
    arguments = parser.parse_args()
    l2o.use_all_cores(arguments.cores)
    search_key, test_key = jax.random.split(jax.random.key(arguments.seed))
    found = arguments.folder / "searched.safetensors"
    if arguments.stage in (None, "search") and not found.exists():
        search(arguments, search_key, found)
    if arguments.stage in (None, "ship") and not arguments.quick:
        ship(found)
    if arguments.stage in (None, "measure"):
        measure(arguments, test_key, found)


def start(powers):
    """One rule for each layer: Adam's constants, and rates that suit gradients to the powers."""
    rates = {"hidden": 0.03, "output": 0.1}
    rules = {
        layer: l2o.Momentum(
            HORIZON,
            rate=rate,
            warmup=0.1,
            decay="linear",
            least=0.03,
            rate_curve=[0.0] * 4,
            b1=0.85,
            b1_curve=[0.0] * 2,
            b2=0.98,
            eps=1e-6,
        ).with_power(power, GRADIENT_RMS)
        for (layer, rate), power in zip(rates.items(), powers, strict=True)
    }
    return l2o.Partitioned(rules)


def search(arguments, key, path):
    """The best of a search from each pair of powers, and of one that goes on from there."""
    family = mlp.family(data="mnist_sample" if arguments.quick else "mnist")
    generations, more = (2, 2) if arguments.quick else (20, 50)
    options = {"horizon": HORIZON, "num_tasks": 8, "num_validation": 32, "validate_every": 5, "batch_size": 1}
    started, results = time.perf_counter(), []
    for i, powers in enumerate(POWERS):
        place = arguments.folder / f"search-{i}"
        results.append(
            l2o.search(
                start(powers),
                family,
                key=jax.random.fold_in(key, i),
                num_generations=generations,
                sigma=0.4,
                folder=place,
                resume=(place / "search.json").exists(),
                **options,
            )
        )
        print(f"powers {powers}: {results[-1].score:.4f} after {results[-1].seconds:.0f} s", flush=True)
    best = min(results, key=lambda found: found.score)
    place = arguments.folder / "search-on"
    last = l2o.search(
        best.optimizer,
        family,
        key=jax.random.fold_in(key, len(POWERS)),
        num_generations=more,
        sigma=0.2,
        folder=place,
        resume=(place / "search.json").exists(),
        **options,
    )
    print(f"searched on: {last.score:.4f}", flush=True)
    num_runs = sum(found.num_runs for found in (*results, last))
    l2o.pretrained.save(
        path,
        last.optimizer,
        recipe={
            "task": "mlp",
            "task_arguments": {"data": "mnist"},
            "horizon": HORIZON,
            "stages": [
                f"CMA-ES, {generations} generations from each of {len(POWERS)} pairs of powers, then {more} more"
            ],
            "num_episodes": num_runs,
            "num_inner_steps": num_runs * HORIZON,
            "seed": arguments.seed,
            "seconds": round(time.perf_counter() - started),
            "machine": "CPU, one core",
        },
    )


def ship(found):
    """The weights with the size of the gradients that they know, in their place in the package."""
    recipe = l2o.pretrained.header(found)["recipe"]
    l2o.pretrained.save(SHIPPED, l2o.load(found, beyond=None), recipe=recipe, family=mlp.family(data="mnist"))
    print(SHIPPED)


def measure(arguments, key, found):
    panels = paper.panels(arguments.quick)
    base = panels["mnist"]
    chosen = {name: panels[name]._replace(run_to=HORIZON, batch_size=1) for name in PANELS if name in panels}
    rule = l2o.load(found, beyond=None)
    twice = {"mnist_tuned_for_twice": base._replace(horizon=2 * HORIZON, run_to=2 * HORIZON, batch_size=1)}
    longer = l2o.Partitioned({name: part.for_horizon(2 * HORIZON) for name, part in rule.parts.items()})
    schedules = tuning.SCHEDULES
    for name, of_panels, learned in (("mnist-momentum", chosen, rule), ("mnist-momentum-200", twice, longer)):
        folder = arguments.folder / name
        comparison.compare(
            of_panels,
            {
                "momentum-mnist": learned,
                **({} if arguments.quick else {"lstm-mnist-pair": "lstm-mnist-pair"}),
                **{n: n for n in l2o.baselines.PAPER_BASELINES},
            },
            search=l2o.Search((5 if arguments.quick else 11) * len(schedules), schedules=schedules),
            key=key,
            num_tasks=4 if arguments.quick else 40,
            tune_tasks=3 if arguments.quick else 10,
            folder=folder,
            resume=(folder / "comparison.json").exists(),
            on_done=lambda panel, optimizer, record: print(f"{panel}: {optimizer}, {record.seconds:.0f} s", flush=True),
        )
        publish(folder, name, quick=arguments.quick, figures=False)


if __name__ == "__main__":
    main()
