"""What `l2o.design` found, as text and as one HTML page that needs no network."""

from typing import Any, NamedTuple

import numpy as np

from l2o.evaluation.design.result import Candidate, Designed
from l2o.evaluation.statistics import bootstrap_interval
from l2o.optimizers.lstm import LSTM
from l2o.optimizers.wrappers.preconditioned import Preconditioned, is_formula
from l2o.report.html import environment
from l2o.report.quantities import duration, interval, number


class _Row(NamedTuple):
    """A candidate in the table."""

    name: str
    what: str
    loss: str
    low_high: str
    against: str  # its mean over the best baseline's
    won: bool


def verdict(found: Designed) -> list[str]:
    """In sentences, the result first."""
    winner, baseline = found.winner, found.baseline
    tasks = f"{len(winner.judged)} " + (
        "fresh tasks" if winner.test is not None else "validation tasks, as the run was interrupted"
    )
    where = f"on {tasks}"
    if not found.beats_tuning:
        return [
            f"Use {baseline.optimizer}: nothing that was found beats it beyond doubt.",
            f"After {found.horizon} steps it has solved {_share(found, baseline)} of {tasks}: a loss of at most {found.target:g}."
            if found.target is not None
            else f"After {found.horizon} steps its mean loss is {_mean(baseline)} {where}.",
        ]
    ratio, low, high = found.ratio
    sentences = []
    if found.target is not None:
        sentences.append(
            f"{_capital(winner.name)} wins. After {found.horizon} steps it has solved {_share(found, winner)} of {tasks}: "
            f"a loss of at most {found.target:g}. The best tuned baseline, {baseline.optimizer}, has solved "
            f"{_share(found, baseline)}."
        )
    elif np.isfinite(ratio):
        sentences.append(
            f"{_capital(winner.name)} wins. After {found.horizon} steps its mean loss is {ratio:.3g} times "
            f"({low:.3g} to {high:.3g}) that of the best tuned baseline, {baseline.optimizer}, {where}."
        )
    else:
        value, low, high = found.difference
        sentences.append(
            f"{_capital(winner.name)} wins. After {found.horizon} steps its mean loss is {number(-value)} "
            f"({number(-high)} to {number(-low)}) below that of the best tuned baseline, {baseline.optimizer}, {where}."
        )
    if winner.cost is not None and baseline.cost is not None:
        times = winner.cost.ms_step / baseline.cost.ms_step
        sentences.append(
            f"A step takes {times:.2f} times as long: {winner.cost.ms_step:.3g} ms against {baseline.cost.ms_step:.3g} ms, "
            "gradient included, one task alone on one core."
        )
        if found.by == "seconds":
            sentences.append("The two were given the same time, not the same number of steps.")
    return sentences


def facts(found: Designed) -> dict[str, str]:
    """What was asked, and what it took."""
    runs = f"{found.num_runs:,.0f} runs of {found.horizon} steps"
    trials = next((c.what for c in found.candidates if c.baseline), "")
    return {
        "Problem": f"{found.name}, {found.num_params:,} parameters, "
        + ("the loss has no noise" if found.deterministic else "losses on minibatches"),
        "Asked for": (
            f"least loss after {found.horizon} steps"
            if found.target is None
            else f"as many problems as can be at a loss of at most {found.target:g} after {found.horizon} steps"
        )
        + (", or in the time that these take" * (found.by == "seconds")),
        "It took": f"{duration(found.seconds)}; the searches took {runs}",
        "Best baseline": trials,
    }


def rows(found: Designed) -> list[_Row]:
    """All that took part, the best by validation first."""
    best = found.baseline.mean
    return [
        _Row(
            c.name,
            c.what,
            number(c.mean),
            interval(bootstrap_interval(c.counted)) if np.isfinite(c.counted).all() else "diverged",
            f"{c.mean / best:.3g}" if best > 0 and np.isfinite(c.mean) and c.mean > 0 else "–",
            c.name == found.winner.name,
        )
        for c in found.candidates
    ]


def counted(found: Designed) -> str:
    """What the candidates are judged by, in words."""
    return (
        "mean loss"
        if found.target is None
        else f"share not solved (smooth: a loss of {found.target:g} counts one half)"
    )


def design_text(found: Designed) -> str:
    """The whole result in plain text."""
    lines = [*verdict(found), "", *(f"{label}: {value}." for label, value in facts(found).items()), ""]
    lines += [f"What took part, and its {counted(found)} on {len(found.winner.validation)} validation tasks:", ""]
    for row in rows(found):
        lines.append(
            f"  {'*' if row.won else ' '} {row.name:<28} {row.loss:>10}  {row.low_high:<24} {row.against:>6}  {row.what}"
        )
    for title, formula in formulas(found.winner):
        lines += ["", title, "", formula]
    return "\n".join(lines) + "\n"


def formulas(candidate: Candidate) -> list[tuple[str, str]]:
    """The rule as a formula; of one with parts, of each."""
    parts: Any = candidate.optimizer.group_rules()
    titled = {f"For the params {name}": part for name, part in (parts or {}).items()} or {
        "The rule": candidate.optimizer
    }
    return [(title, part.formula() if is_formula(part) else _in_words(part)) for title, part in titled.items()]


def _in_words(rule):
    if isinstance(rule, LSTM):
        return f"An LSTM for each parameter, {rule.num_layers} layers of {rule.num_units} units: it has no formula."
    if isinstance(rule, Preconditioned):
        return f"{_in_words(rule.optimizer)} Each parameter's update is then multiplied by a factor of its own."
    return str(rule)


def design_page(found: Designed) -> str:
    """The same as one HTML page."""
    return (
        environment("The page of a design")
        .get_template("design.html")
        .render(
            title=f"An optimizer for {found.name}",
            sentences=verdict(found),
            facts=facts(found),
            rows=rows(found),
            num_validation=len(found.winner.validation),
            counted=counted(found),
            formulas=formulas(found.winner),
            code=code(found.winner),
        )
    )


def code(candidate: Candidate) -> list[tuple[str, str]]:
    """The rule as optax code that needs no l2o, where it has any; of one with parts, of each."""
    parts: Any = candidate.optimizer.group_rules() or {"": candidate.optimizer}
    return [(name, part.optax_code()) for name, part in parts.items() if is_formula(part)]


def _mean(candidate):
    return f"{number(float(np.mean(candidate.judged)))} ({interval(bootstrap_interval(candidate.judged))})"


def _share(found, candidate):
    """In per cent, with its interval."""
    share, low, high = (100 * x for x in found.solved(candidate))
    return f"{share:.3g} % ({low:.3g} to {high:.3g})"


def _capital(words):
    return words[:1].upper() + words[1:]
