"""Writes docs/api.md from the docstrings: python docs/make_api.py"""

import inspect
from pathlib import Path

import l2o
from l2o import report
from l2o.core import plugins
from l2o.evaluation import analysis, comparison, costs, records, statistics, surrogates, timing
from l2o.meta import recording
from l2o.meta.imitation import Imitation
from l2o.optimizers import lstm, pretrained, states
from l2o.tasks import lasso

PAGE = Path(__file__).parent / "api.md"


def page() -> str:
    """Every public name with the first line of its docstring; a name without one is an error."""
    lines = ["# Public names", "", "`help(l2o.NAME)` gives the whole text. Written by docs/make_api.py.", ""]
    lines += ["| name | what |", "|---|---|"]
    for name in sorted(l2o.__all__):
        lines.append(f"| `l2o.{name}` | {first_line(f'l2o.{name}', getattr(l2o, name))} |")
    kinds = {"tasks": "family", "architectures": "build", "estimators": "build", "suites": "panels"}
    for kind, member in kinds.items():
        for name in plugins.names(kind):
            found = getattr(plugins.get(kind, name), member)
            lines.append(f"| `l2o.{kind}.{name}.{member}` | {first_line(f'{kind}.{name}', found)} |")
    for found in (
        comparison.compare,
        records.load,
        records.Comparison,
        records.Record,
        analysis.rows,
        analysis.all_rows,
        analysis.write_table,
        analysis.ratio_to_best,
        analysis.overall,
        analysis.pay_back,
        statistics.mean_band,
        statistics.interquartile_mean,
        statistics.stratified,
        statistics.aggregate,
        statistics.probability_of_improvement,
        statistics.performance_profile,
        pretrained.save,
        pretrained.load,
        pretrained.header,
        pretrained.describe,
        pretrained.as_dict,
        recording.meta_gradient,
        recording.RecordedLoop,
        states.save,
        states.load,
        lasso.fista,
        lstm.chrono,
        timing.step_costs,
        costs.against_tuning,
        costs.against_tuned,
        report.table,
        report.figure,
        report.explained,
        report.explanation_table,
        report.explanation_as_dict,
        report.behaviour_figures,
        surrogates.fit,
        surrogates.samples,
        surrogates.Surrogate,
        Imitation,
    ):
        name = f"{found.__module__}.{found.__name__}"
        lines.append(f"| `{name}` | {first_line(name, found)} |")
    return "\n".join(lines) + "\n"


def first_line(name, thing) -> str:
    """First line of a docstring."""
    if not (inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing)):
        return "A type alias."
    doc = inspect.getdoc(thing)
    if not doc:
        raise ValueError(f"{name} has no docstring.")
    return doc.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
