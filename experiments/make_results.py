"""Writes docs/results.md, docs/results/*.md and the first table of the README, from the tables in experiments/results.

python experiments/make_results.py
"""

import csv
import json
from pathlib import Path

from _results_text import (
    AGAINST,
    BY_HAND,
    CLOSING,
    INTRODUCTION,
    MEASURED_IN,
    NETS,
    NOTES,
    PAGES,
    PAPER,
    SCHEDULED_AS,
    SECTIONS,
    TEACHERS,
)

import l2o

RESULTS = Path(__file__).parent / "results"
WEIGHTS_OF = {
    "two LSTMs": "lstm-cifar",
    "one LSTM": "cifar10-one-lstm",
    "LSTM-sub of CIFAR-5": "cifar5-lstm-sub",
    "LSTM-sub of CIFAR-2": "cifar2-lstm-sub",
}
DOCS = Path(__file__).parents[1] / "docs"
README = Path(__file__).parents[1] / "README.md"
MARKS = ("<!-- results -->\n", "<!-- /results -->")
# What the README shows: one panel of each kind, those where a rule loses or ties among them.
IN_README = [
    ("quadratic", 100),
    ("mnist", 100),
    ("mnist_2_layers", 100),
    ("mnist_relu", 100),
    ("cifar10", 1000),
    ("style_64", 128),
]


def glance(panels=tuple(PAPER)) -> str:
    """A line for each panel of the paper: the best of our learned optimizers there, and what it stands beside."""
    ours = {}
    for section in SECTIONS:
        if (RESULTS / f"{section.name}.csv").is_file() and not section.brief:
            for row in ratios(section, "paper", learned=True):
                ours.setdefault((row["panel"], int(row["step"])), []).append(row)
    lines = [*table(["panel", "ours", *AGAINST.values(), "the paper's"])]
    for panel in panels:
        paper = PAPER[panel]
        if paper_ratio(paper) == "--":
            continue  # a panel of ours
        if panel in ours:
            best = min(ours[panel], key=lambda row: float(row["ratio"]))
            name = WEIGHTS_OF.get(best["optimizer"], best["optimizer"])
            beside = [
                " ".join(ratio_and_verdict(row)) + row.get("note", "") if row else "--" for row in stands_beside(best)
            ]
            lines.append(cells(paper.title, f"`{name}`", *beside, paper_ratio(paper)))
        else:
            lines.append(cells(paper.title, "not measured yet", "", "", "", paper_ratio(paper)))
    return "\n".join(lines) + "\n"


def stands_beside(row):
    """The ratios of the same optimizer, where it runs as in this `row`, against each of `AGAINST`; None: not measured."""
    panel, step = row["panel"], row["step"]
    yield row
    for against in (kind for kind in AGAINST if kind != "paper"):
        found = [
            other
            for name in MEASURED_IN.get(panel, ())
            if (RESULTS / f"{name}-ratios.csv").is_file()
            for other in read(f"{name}-ratios")
            if other["optimizer"] == row["optimizer"]
            and (other["panel"], other["step"]) in ((panel, step), (SCHEDULED_AS.get((panel, int(step))), step))
            and other.get("against", "paper") == against
        ]
        yield found[0] if found else one_rate(row) if against == "baselines" else None


def one_rate(row):
    """The ratio to the best of the four with schedules, where no baseline with rates by group was run."""
    place = SCHEDULED_AS.get((row["panel"], int(row["step"])), row["panel"]), row["step"], row["optimizer"]
    name = "mnist-schedules" if row["panel"].startswith("mnist") else f"{row['panel']}-cosine"
    if (RESULTS / f"{name}-ratios.csv").is_file():
        for other in read(f"{name}-ratios"):
            if (other["panel"], other["step"], other["optimizer"]) == place:
                return {**other, "note": ", one rate"}
    return None


def read(name):
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def ratios(section, against, *, learned=False):
    """Without those of L-BFGS and conjugate gradients, lines to look at; `learned`: nor those of what is designed by hand."""
    others = {row["optimizer"] for row in read(section.name) if row["learned"] != "True"}
    left_out = others if learned else others & {"lbfgs", "conjugate gradients"}
    return [
        row
        for row in read(f"{section.name}-ratios")
        if row["optimizer"] not in left_out and row.get("against", "paper") == against
    ]


def tables(section):
    """Ratios, then losses and accuracies of all, then costs."""
    rows, ours = read(section.name), ratios(section, "paper")
    if section.brief:
        yield f"Losses, rates and accuracies are in [{section.name}.csv](../../experiments/results/{section.name}.csv)."
        scheduled = ratios(section, "baselines")
        if scheduled:
            yield from matrix("Ratio to the best of all baselines:", scheduled, ratio_to_best)
            yield from matrix("Ratio to its teacher:", ratios(section, "teacher"), ratio_alone)
            yield from matrix("Mean loss of all, with the tuned rate:", rows, mean_and_rate)
        else:
            yield from matrix("Ratio to the best of the four:", ours, ratio_to_best)
    else:
        yield from losses(rows, ours)
        taught = ratios(section, "teacher")
        if taught:
            yield from matrix("Ratio to its teacher:", taught, ratio_alone)
    yield ""
    yield from costs(rows)


def losses(rows, ours):
    yield from table(
        ["panel", "optimizer", "loss", "best of the four", "its loss", "ratio", "", "the paper's ratio", "tasks"]
    )
    for row in ours:
        found = {r["optimizer"]: r for r in rows if (r["panel"], r["step"]) == (row["panel"], row["step"])}
        best = found[row["best"]]
        yield cells(
            title(row),
            f"`{row['optimizer']}`",
            loss(found[row["optimizer"]]),
            f"{row['best']} {float(best['rate']):.2g}",
            loss(best),
            *ratio_and_verdict(row),
            paper_ratio(PAPER.get((row["panel"], int(row["step"])))),
            row["num_tasks"],
        )
    yield from matrix("Mean loss of all, with the tuned rate:", rows, mean_and_rate)
    if rows[0].get("final_accuracy"):
        last = {(r["panel"], r["optimizer"]): r for r in rows}.values()
        yield from matrix("Test accuracy at the last step, and that on the training set:", last, accuracies)


def costs(rows):
    names = [
        "optimizer",
        "ms a step, gradient included",
        "of it the optimizer",
        "bytes of state a parameter",
        "meta-training",
    ]
    yield from table(names)
    for row in (r for r in rows if r["panel"] == rows[0]["panel"] and r["step"] == rows[0]["step"]):
        if row.get("ms_step"):
            state = float(row["state_bytes"]) / float(row["num_params"])
            milliseconds = [
                f"{ms:.0f}" if ms >= 10 else f"{ms:.2g}" for ms in (float(row["ms_step"]), float(row["ms_optimizer"]))
            ]
            yield cells(row["optimizer"], *milliseconds, f"{state:.3g}", meta_training(row["optimizer"]))


def matrix(caption, rows, text):
    """Panels down, optimizers across."""
    found = {}
    for row in rows:
        found.setdefault(title(row), {})[row["optimizer"]] = text(row)
    optimizers = list(dict.fromkeys(row["optimizer"] for row in rows))
    yield from ["", caption, ""]
    yield from table(["panel", *optimizers])
    for panel, of in found.items():
        yield cells(panel, *(of.get(name, "--") for name in optimizers))


def table(names):
    yield cells(*names)
    yield "|" + "---|" * len(names)


def cells(*values):
    return "| " + " | ".join(values) + " |"


def title(row):
    paper = PAPER.get((row["panel"], int(row["step"])))
    return paper.title if paper else f"{row['panel']}, step {row['step']}"


def ratio_to_best(row):
    ratio, verdict = ratio_and_verdict(row)
    return f"{ratio} of {row['best']}, {verdict}"


def ratio_alone(row):
    return ", ".join(ratio_and_verdict(row))


def ratio_and_verdict(row):
    low, high = float(row["low"]), float(row["high"])
    return f"**{float(row['ratio']):.3g}** ({low:.3g}–{high:.3g})", verdict(low, high)


def mean_and_rate(row):
    mean = f"{float(row['mean']):.3g}"
    return f"{mean} ({float(row['rate']):.2g})" if row["rate"] else mean


def accuracies(row):
    return f"{float(row['final_accuracy']):.3f} ({float(row['final_train_accuracy']):.3f})"


def meta_training(name):
    """What it took, from the weights' header."""
    name = name.partition(",")[0]  # a variant of the same weights
    name = WEIGHTS_OF.get(name, name)
    own = RESULTS / f"{name}.safetensors"
    if name not in l2o.pretrained.names() and not own.is_file():
        return "--"
    recipe = l2o.pretrained.header(own if own.is_file() else name)["recipe"]
    return f"{recipe['num_episodes']:,.0f} runs, {recipe['seconds'] / 60:.0f} min"


def loss(row):
    if not row["mean_low"]:
        return f"diverged ({row['num_diverged']} of {row['num_tasks']})"
    return f"{float(row['mean']):.4g} ({float(row['mean_low']):.4g}–{float(row['mean_high']):.4g})"


def verdict(low, high):
    return "wins" if high < 1 else "loses" if low > 1 else "tie"


def paper_ratio(paper):
    if paper is None:
        return "--"
    if not paper.losses:
        return paper.says or "--"
    return f"{paper.losses['learned'] / min(v for k, v in paper.losses.items() if k != 'learned'):.2f}"


def found_again():
    """What `search_teacher.py` found, beside what is used."""
    yield from table(
        ["rule", "net", "step", "populations, steps of descent", "start", "found", "in the train script", "ratio"]
    )
    for file in sorted(RESULTS.glob("teacher-*.json")):
        told = json.loads(file.read_text())
        by_place = {}
        for row in told["losses"]:
            by_place.setdefault((row["net"], row["step"]), {})[row["rule"]] = row
        for (net, step), rules in by_place.items():
            last = [row for name, row in rules.items() if name.startswith("evolution")][-1]
            used = rules.get("used")
            ratio = f"{last['ratio_to_used']:.3f} ({last['low']:.3f}–{last['high']:.3f})" if used else "--"
            yield cells(
                file.stem.removeprefix("teacher-"),
                NETS.get(net, net),
                f"{step:,}",
                f"{told['populations']}, {told['gradient_steps']}",
                f"{rules['start']['loss']:.3g}",
                f"{last['loss']:.3g}",
                f"{used['loss']:.3g}" if used else "--",
                ratio,
            )


def pages() -> dict[str, str]:
    """The text of every page, by its path in docs; experiments whose tables are not there are left out."""
    listed = "\n".join(f"- [{title}](results/{name}.md)" for name, title in (PAGES | BY_HAND).items())
    toc = "\n".join(f"results/{name}" for name in PAGES | BY_HAND)
    toc = f"```{{toctree}}\n:hidden:\n\n{toc}\n```\n"
    found = {"results.md": "\n".join([INTRODUCTION, glance(), NOTES.strip("\n"), "", listed, CLOSING, toc])}
    for name, title in PAGES.items():
        lines = [f"# {title}", ""]
        for section in SECTIONS:
            if section.page == name and (RESULTS / f"{section.name}.csv").is_file():
                lines += [f"## {section.title}", "", f"`{section.command}`", "", section.text, "", *tables(section), ""]
                lines += [f"![{section.title}: {alt(f)}](../../experiments/results/{f})" for f in section.figures]
                lines.append("")
        if name == "teachers":
            lines += [TEACHERS, *found_again(), ""]
        found[f"results/{name}.md"] = "\n".join(lines).rstrip() + "\n"
    return found


def alt(figure):
    return "pictures" if "pictures" in figure else "loss against step"


def readme() -> str:
    """The README with this state's table between the marks."""
    before, _, rest = README.read_text().partition(MARKS[0])
    return before + MARKS[0] + glance(IN_README) + MARKS[1] + rest.partition(MARKS[1])[2]


if __name__ == "__main__":
    (DOCS / "results").mkdir(exist_ok=True)
    for path, text in pages().items():
        (DOCS / path).write_text(text)
        print(DOCS / path)
    README.write_text(readme())
    print(README)
