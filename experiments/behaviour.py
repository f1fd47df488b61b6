"""What the shipped optimizers amount to: python experiments/behaviour.py

The paper's pictures of behaviour (Andrychowicz et al. 2016, appendix): updates as a function of the gradient and of
history, along a coordinate's trajectory, beside SGD's and Adam's. And what its reviewers asked for, the strategy learned:
surrogates of a few constants, judged by their fit on held-out tasks and by the loss that they reach when they are run themselves.

Runs `l2o.explain` on the family that each weights file was meta-trained on (seed 0; quadratics: 64 runs to fit, 256 held out;
MNIST: 10 and 10), about a minute of one core each; an optimizer of several rules one rule at a time. Needs MNIST (`l2o.data`).
Publishes behaviour.csv, behaviour-NAME.txt and behaviour-NAME-{updates,trajectories,fit}.png. `--quick`: fewer runs of fewer
steps, on the MNIST sample; publishes nothing.
"""

import argparse
import csv
import json
import shutil
from pathlib import Path

import jax
from _publish import RESULTS

import l2o
from l2o import report
from l2o.cli._explain import family_of
from l2o.report.behaviour_text import explanation_rows

NAMES = (
    "lstm-quadratic",
    "lstm-mnist",
    "lstm-mnist-pair:hidden",
    "lstm-mnist-pair:output",
    "lstm-mnist-mixture:hidden",
    "lstm-mnist-mixture:output",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/behaviour"))
    parser.add_argument("--only", choices=NAMES, help="this one anew; the others' results stay")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    l2o.use_all_cores()
    table = []
    for name in NAMES:
        if arguments.only not in (None, name):
            continue
        weights, _, part = name.partition(":")
        quick_data = ["data=mnist_sample"] if arguments.quick and "mnist" in name else None
        family, title, horizon = family_of(weights, None, quick_data)
        options = {"horizon": 30, "num_tasks": 4, "num_fitted": 4} if arguments.quick else {"horizon": horizon}
        found = l2o.explain(l2o.load(weights), family, key=jax.random.key(arguments.seed), part=part or None, **options)
        file_name = name.replace(":", "-")
        folder = arguments.folder / file_name
        folder.mkdir(parents=True, exist_ok=True)
        text = report.explained(found, name=name, family=title)
        print(text, flush=True)
        (folder / "explanation.txt").write_text(text)
        numbers = report.explanation_as_dict(found, name=name, family=title)
        (folder / "explanation.json").write_text(json.dumps(numbers, indent=1))
        figures = report.behaviour_figures(found, folder, name=name)
        for row in explanation_rows(found, name):
            fitted = found.fitted.get(row.pop("key"))
            ratio = row.pop("ratio_to_rule")
            row |= {"ratio_to_rule": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high}
            table.append({"rule": name, **row, "equation": fitted.form.equation if fitted else ""})
        if not arguments.quick:
            RESULTS.mkdir(exist_ok=True)
            shutil.copyfile(folder / "explanation.txt", RESULTS / f"behaviour-{file_name}.txt")
            for figure in figures:
                if figure.suffix == ".png":
                    shutil.copyfile(figure, RESULTS / figure.name.replace("behaviour-", f"behaviour-{file_name}-"))
    if arguments.quick:
        return
    path, done = RESULTS / "behaviour.csv", {row["rule"] for row in table}
    if path.is_file():  # with --only, the others' rows stay
        with open(path, newline="") as file:
            table = [row for row in csv.DictReader(file) if row["rule"] not in done] + table
    table.sort(key=lambda row: NAMES.index(row["rule"]))  # stable: within a rule the order stays
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    print(f"Published in {RESULTS}: behaviour*")


if __name__ == "__main__":
    main()
