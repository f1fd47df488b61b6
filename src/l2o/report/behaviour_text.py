"""An explanation in words: a table, a paragraph made of its numbers, and all of it as plain containers."""

import math
import textwrap
from typing import Any

import numpy as np

from l2o.evaluation.explained import RULE, Explanation
from l2o.evaluation.forms import Fitted
from l2o.evaluation.statistics import IntervalEstimate
from l2o.io.extras import extra
from l2o.report.quantities import count, estimate, listed, number
from l2o.report.terminal import literal
from l2o.report.text import _wrapped

_SYMBOLS = {"decay": "β", "saturation": "τ", "square_decay": "β₂", "epsilon": "ε"}


def explanation_table(explanation: Explanation, *, name: str):
    """A rich table: each surrogate's held-out R², its constants, and its final loss; the rule and tuned baselines below."""
    with extra("report", "A table"):
        from rich import box
        from rich.table import Table

    title = f"What {name} amounts to: surrogates of its updates, on {explanation.num_held_out} held-out tasks"
    grid = Table(title=literal(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("surrogate", overflow="fold")
    for heading in ("constants", "R²", "final loss"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for row in explanation_rows(explanation, name):
        label = literal(row["name"], style="bold" if row["name"] == explanation.best else "")
        r2 = "" if row["r2"] is None else f"{row['r2']:.3f}"
        constants = "" if row["num_constants"] is None else str(row["num_constants"])
        grid.add_row(label, constants, r2, _loss(explanation, row["key"]))
    return grid


def explanation_rows(explanation: Explanation, name: str) -> list[dict[str, Any]]:
    """The table's rows: surrogates, then the rule and the baselines."""
    found = []
    for key, one in explanation.fitted.items():
        found.append({"name": key, "num_constants": one.num_constants, "r2": one.r2, "fitted": _constants(one)})
    for key in (RULE, *explanation.tuned):
        rate = f"tuned, rate {number(explanation.tuned[key].rate)}" if key in explanation.tuned else "the rule itself"
        found.append({"name": name if key == RULE else key, "num_constants": None, "r2": None, "fitted": rate})
    keys = [*explanation.fitted, RULE, *explanation.tuned]
    for row, key in zip(found, keys, strict=True):
        final = explanation.final(key)
        row |= {"key": key, "final_loss": final.value, "low": final.low, "high": final.high}
        row |= {"num_diverged": explanation.num_lost(key), "ratio_to_rule": explanation.ratio(key, RULE)}
    return found


def _loss(explanation, key):
    if lost := explanation.num_lost(key):
        return f"{lost} of {explanation.num_held_out} diverge"
    return estimate(*explanation.final(key))


def _constants(found: Fitted) -> str:
    sizes = np.asarray(found.rule.step_sizes, float)
    parts = []
    if not found.form.timed:
        names = {0: "a", 1: "a", 2: "a"} if len(found.form.orders) == 1 else {0: "a0", 1: "a1", 2: "a2"}
        parts = [f"{names[j]} {number(sizes[0, j])}" for j in found.form.orders]
    constants = found.constants
    parts += [f"{symbol} {number(constants[k])}" for k, symbol in _SYMBOLS.items() if k in constants]
    if "normalised_step" in constants and not found.form.timed:
        parts.append(f"a·ε {number(constants['normalised_step'])}")
    return ", ".join(parts)


def reading(explanation: Explanation, *, name: str) -> str:
    """A paragraph on what the rule amounts to. Every clause is decided by the numbers it tells."""
    return " ".join([*_updates(explanation, name), *_as_optimizers(explanation, name)])


def _updates(explanation, name):
    """How much of the updates which part of the formula explains."""
    fitted = explanation.fitted
    sgd, timed, memory = fitted["SGD"], fitted["SGD, a(t)"], fitted["memory"]
    sizes = listed([f"{number(timed.step_size(t), 2)} at step {t}" for t in explanation.steps()])
    yield (
        f"The present gradient alone explains {_percent(sgd.r2)} of {name}'s updates (R² on held-out tasks) with one step "
        f"size, {number(sgd.step_size(1), 2)} units of a parameter per unit of its gradient, and {_percent(timed.r2)} with one "
        f"that depends on the step ({sizes})."
    )
    saturated, normalised = fitted["saturation, memory"], fitted["normalisation, memory"]
    bounded = (
        f"saturated at {number(saturated.constants['saturation'], 2)}, which {_percent(explanation.beyond)} exceed,"
    )
    yield (
        f"Memory of past gradients, linear, explains {_percent(memory.r2)}; of gradients {bounded} {_percent(saturated.r2)}; "
        f"divided by the gradient's root mean square, as Adam does, {_percent(normalised.r2)}."
    )
    constant, best = fitted[explanation.best_constant], fitted[explanation.best]
    if constant.mean_lag:
        yield (
            f"In the best surrogate with constant step sizes ({constant.form.name}) the gradients in an update are "
            f"{number(constant.mean_lag, 2)} steps old on average; in Adam's average with β₁ = 0.9 they are 9."
        )
    if best is not constant:
        yield (
            f"Step sizes that depend on the step ({best.form.name}, {best.num_constants} constants) take it from "
            f"{_percent(constant.r2)} to {_percent(best.r2)}."
        )
    ours, adams = explanation.against[RULE], explanation.against["adam"]
    yield (
        f"{_percent(1 - best.r2)} remains unexplained. {_percent(ours)} of the updates go up the present gradient; tuned Adam's, "
        f"on the same gradients, do in {_percent(adams)}."
    )


def _as_optimizers(explanation, name):
    """What decides: the surrogates, run themselves."""
    whole = name if explanation.part is None else "the whole optimizer"
    yield (
        f"Run to step {explanation.horizon} on {count(explanation.num_held_out, 'held-out task')}, {whole} ends at a loss of "
        f"{estimate(*explanation.final(RULE))}, tuned Adam at {estimate(*explanation.final('adam'))} ({whole} / Adam "
        f"{estimate(*explanation.ratio(RULE, 'adam'))})."
    )
    run = "run as an optimizer itself" if explanation.part is None else "run in its place, the rest as it is"
    for surrogate in dict.fromkeys((explanation.best, explanation.best_constant)):
        kind = "best surrogate" if surrogate == explanation.best else "best with constant step sizes"
        constants = count(explanation.fitted[surrogate].num_constants, "constant")
        text = f"The {kind} ({surrogate}, {constants}), {run},"
        if lost := explanation.num_lost(surrogate):
            yield f"{text} diverges on {lost} of them: however well it fits, it is no explanation."
            continue
        ratio = explanation.ratio(surrogate, RULE)
        loss = f"{estimate(*explanation.final(surrogate))}, {estimate(*ratio)} of the rule's"
        half = max(1, explanation.horizon // 2)
        halfway = f"{estimate(*explanation.ratio(surrogate, RULE, half))} of it"
        yield f"{text} ends at {loss}: {_verdict(explanation, surrogate, ratio)}. At step {half} it is at {halfway}."


def _verdict(explanation, surrogate, ratio: IntervalEstimate):
    if ratio.high < 1:
        return "lower than the rule it was fitted to"
    if ratio.low <= 1:
        return "not told apart from the rule"
    to_adam, rule_to_adam = explanation.ratio(surrogate, "adam"), explanation.ratio(RULE, "adam")
    if rule_to_adam.high < 1 and to_adam.high < 1:
        kept = (1 - to_adam.value) / (1 - rule_to_adam.value)
        return f"worse than the rule, but it keeps {_percent(kept)} of the rule's gain on Adam"
    if to_adam.low > 1:
        return "worse than the rule, and than tuned Adam: what it explains is not what makes the rule work"
    return "worse than the rule, and not told apart from tuned Adam"


def explained(explanation: Explanation, *, name: str, family: str) -> str:
    """The whole explanation as plain text, lines of at most 96 characters, save those of code and formulas."""
    heading = f"l2o: what {name} amounts to on {family}"
    lines = [heading, "=" * len(heading), ""]
    if explanation.exact:
        lines += [exactly(explanation, name=name), ""]
    lines += [_wrapped(reading(explanation, name=name)), ""]
    facts = (
        f"Fitted to {count(explanation.num_fitted, 'run')} of {explanation.horizon} steps, {explanation.num_coordinates} of "
        f"{explanation.num_params:,} coordinates each; judged on {count(explanation.num_held_out, 'held-out run')}. R² is "
        "about zero, and counts every run, step and array of the params alike. Final losses are means "
        + (f"over the last {explanation.window} steps " if explanation.window > 1 else "")
        + "with 95 % intervals over tasks."
    )
    lines += [_wrapped(facts)]
    if explanation.num_diverged:
        lines += [
            _wrapped(f"{count(explanation.num_diverged, 'run')} of the rule diverged, and were left out of the fit.")
        ]
    lines += ["", f"{'surrogate':<28} {'constants':>9} {'R²':>6}  final loss"]
    for row in explanation_rows(explanation, name):
        r2 = "" if row["r2"] is None else f"{row['r2']:.3f}"
        lines.append(f"{row['name']:<28} {row['num_constants'] or '':>9} {r2:>6}  {_loss(explanation, row['key'])}")
        lines.append(_wrapped(row["fitted"] or "step sizes in explanation.json", start=4, indent=4))
    lines += [
        "",
        "Equations (x = g / (1 + |g|/τ), or g where there is no τ; m, n: the average, and the average's average; β):",
    ]
    lines += [f"  {one.form.name:<28} {one.form.equation}" for one in explanation.fitted.values()]
    return "\n".join(lines) + "\n"


def exactly(explanation: Explanation, *, name: str) -> str:
    """A rule that is a formula itself: its numbers, and the code of optax that makes it. Empty for any other."""
    blocks = []
    for one in explanation.exact:
        who = name if one.part is None or one.part == explanation.part else f"The part {one.part} of {name}"
        blocks += [f"{who} is a formula of a few constants.", "", one.formula, "", "The same without l2o:", ""]
        blocks += [textwrap.indent(one.optax_code.rstrip(), "    "), ""]
    return "\n".join(blocks[:-1])


def explanation_as_dict(explanation: Explanation, *, name: str, family: str) -> dict[str, Any]:
    """All numbers, for JSON: what is not finite becomes None."""
    fitted = {}
    for row in explanation_rows(explanation, name):
        one = explanation.fitted.get(row["key"])
        fitted[row["key"]] = {k: row[k] for k in ("final_loss", "low", "high", "num_diverged")}
        fitted[row["key"]]["ratio_to_rule"] = list(row["ratio_to_rule"])
        if one is not None:
            fitted[row["key"]] |= {
                "equation": one.form.equation,
                "r2": one.r2,
                "r2_fit": one.r2_fit,
                "num_constants": one.num_constants,
                "constants": one.constants,
                "knots": one.rule.knots.tolist(),
                "step_sizes": one.rule.step_sizes.tolist(),
                "mean_lag": one.mean_lag,
                "step_size_at": {str(t): one.step_size(t) for t in explanation.steps()},
            }
        elif row["key"] in explanation.tuned:
            fitted[row["key"]]["rate"] = explanation.tuned[row["key"]].rate
    whole = explanation._asdict()
    kept = [
        "part",
        "horizon",
        "window",
        "num_params",
        "num_fitted",
        "num_held_out",
        "num_diverged",
        "num_coordinates",
        "best",
    ]
    numbers = {
        "name": name,
        "family": family,
        "reading": reading(explanation, name=name),
        **{k: whole[k] for k in kept},
        "best_constant": explanation.best_constant,
        "uphill": explanation.against,
        "beyond_saturation": explanation.beyond,
        "optimizers": fitted,
        "responses": [r._asdict() for r in explanation.responses],
        "trajectories": [t._asdict() for t in explanation.trajectories],
        "exact": [one._asdict() for one in explanation.exact],
    }
    return {key: _finite(value) for key, value in numbers.items()}


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _percent(share):
    return f"{100 * share:.0f} %"
