"""Meta-trains the shipped `lstm-quadratic` and measures it: python experiments/train_quadratic.py

The paper's quadratics (Andrychowicz et al. 2016, section 3.1), LSTM without pre- or post-processing, horizon 100, truncation
20. Adam from 1e-2, cosine-decayed; the mean meta-gradient clipped to 0.1 (see LOG.md: 1.0 trained far worse).
About ten minutes on two cores; `--quick` takes two and ships nothing. Run again, it goes on where it was stopped.
"""

import argparse
from pathlib import Path

import jax
import optax

import l2o
from l2o.evaluation import analysis, comparison
from l2o.meta.estimators.bptt import BPTT
from l2o.optimizers import lstm
from l2o.tasks import quadratic

SHIPPED = Path(l2o.__file__).parent / "io" / "pretrained" / "lstm-quadratic.safetensors"
FIRST_ORDER = ["sgd", "momentum", "nag", "rmsprop", "adagrad", "adam", "lion", "muon"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="500 meta-steps")
    parser.add_argument("--folder", type=Path, default=Path("runs/lstm-quadratic"))
    parser.add_argument("--num-steps", type=int, default=2500)
    parser.add_argument("--num-tasks", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    num_steps = 500 if arguments.quick else arguments.num_steps
    l2o.use_all_cores()
    init_key, train_key, test_key = jax.random.split(jax.random.key(arguments.seed), 3)
    family = quadratic.family()

    result = l2o.meta_train(
        lstm.build(init_key, preset="raw"),
        BPTT(l2o.InnerTraining(family, 100, 20), arguments.num_tasks),
        l2o.default_outer_optimizer(optax.cosine_decay_schedule(1e-2, num_steps, 0.02), max_norm=0.1),
        num_steps=num_steps,
        key=train_key,
        validation=l2o.Validation(family, 100, num_tasks=512, every=100, final_steps=1),
        folder=arguments.folder,
        resume=(arguments.folder / "checkpoints").exists(),
        on_step=lambda row: "validation_loss" in row and print(row, flush=True),
    )
    path = arguments.folder / "weights.safetensors" if arguments.quick else SHIPPED
    recipe = {
        "task": "quadratic",
        "task_arguments": {},
        "horizon": 100,
        "truncation": 20,
        "estimator": "bptt",
        "outer_optimizer": "adam, cosine from 1e-2 to 2e-4, mean meta-gradient clipped to norm 0.1",
        "num_tasks": arguments.num_tasks,
        "num_steps": result.num_steps,
        "num_episodes": result.num_episodes,
        "num_skipped": result.num_skipped,
        "num_diverged": result.num_diverged,
        "best_validation_loss": result.best_score,
        "seed": arguments.seed,
        "seconds": round(result.seconds),
        "machine": "CPU, one or two cores",
        "command": "python experiments/train_quadratic.py",
    }
    l2o.pretrained.save(path, result.optimizer, recipe=recipe, family=family)
    print(f"{result.seconds:.0f} s, {result.num_episodes:.0f} inner runs; weights in {path}")

    source = "Andrychowicz et al. 2016, section 3.1"
    results = comparison.compare(
        {f"tuned for step {horizon}": l2o.Panel(quadratic.family, horizon, 200, source) for horizon in (100, 200)},
        {"lstm-quadratic": result, **{name: name for name in FIRST_ORDER}},
        key=test_key,
        num_tasks=2048,
        tune_tasks=256,
        search=l2o.Search(21),
    )
    for panel, records in results.records.items():
        for row in analysis.rows(records, [20, 50, 100, 200]):
            print(panel, row)
        for step in (100, 200):
            print(f"{panel}, at step {step}:", analysis.ratio_to_best(records, "lstm-quadratic", step))


if __name__ == "__main__":
    main()
