"""The report: one HTML file that holds all it shows, and needs no network. What it says stands in `templates/`."""

import base64
import gzip
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from l2o.evaluation import analysis
from l2o.evaluation.records import Comparison
from l2o.io.extras import extra
from l2o.report import images, text
from l2o.report.page_data import page_data
from l2o.report.quantities import count, duration, interval, memory, number, solves
from l2o.report.settings import setting
from l2o.report.styles import Style, all_optimizers, styles


def page(comparison: Comparison, config: Mapping[str, Any] | None = None, recorded: str | None = None) -> str:
    """The whole report as HTML.

    **Arguments:** `config`: what the command's config.json holds (command, versions); `recorded`: a date; both are only shown.
    """
    templates = environment("The report's page")
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    found = _Found(comparison)
    return templates.get_template("page.html").render(
        title=f"l2o: {text.title(comparison)}",
        facts=text.facts(comparison, config, recorded),
        findings=text.findings(comparison),
        caveats=text.caveats(comparison),
        styles=found.styles,
        overall=found.overall(),
        glance=found.glance(),
        panels=found.panels(),
        data=found.data,
        plotly=_plotly(),
    )


def environment(what: str) -> Any:
    """Jinja2's, for `what` page of this room. Whatever a record says is escaped. What is not, is ours: `asset(name)`.

    **Raises:** `ModuleNotFoundError` saying which extra brings Jinja2.
    """
    with extra("report", what):
        import jinja2
        from markupsafe import Markup

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("l2o.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["asset"] = lambda name: Markup(_asset(name))
    return made


class _Cell(NamedTuple):
    """A cell of a table: what is shown, and the number that it is sorted by."""

    text: str
    value: float | None = None  # None: sorted as text
    kind: str | None = None  # class of the element: "won", "lost", "text"
    below: str = ""  # in small letters
    style: Style | None = None  # of the optimizer that is named
    link: str | None = None  # id of a section

    @property
    def sorted_by(self) -> str:
        return "" if self.value is None or not np.isfinite(self.value) else repr(float(self.value))  # "": last


_NONE = _Cell("–", np.nan)


class _Table(NamedTuple):
    columns: list[tuple[str, str | None]]  # headers, and what explains them
    rows: list[list[_Cell]]
    caption: str = ""


class _Found:
    """What a comparison shows, as the templates lay it out."""

    def __init__(self, comparison: Comparison):
        self.comparison = comparison
        self.styles = styles(all_optimizers(comparison))
        self.verdicts = analysis.verdicts(comparison)
        self.data = page_data(comparison)
        self.sheets = images.sheets(comparison)
        self.lines = text.panel_lines(comparison)
        self.ids = {panel: f"panel-{i}" for i, panel in enumerate(comparison.panels, 1)}

    def overall(self):
        return [
            [
                self._name(name),
                _Cell(number(row.ratio.value), row.ratio.value, below=interval(row.ratio[1:])),
                _Cell(number(row.improvement.value, 2), row.improvement.value, below=interval(row.improvement[1:], 2))
                if row.improvement
                else _NONE,
                _Cell(str(row.num_panels), row.num_panels),
                _Cell(str(row.num_won), row.num_won, "won" if row.num_won else None),
                _Cell(str(row.num_lost), row.num_lost, "lost" if row.num_lost else None),
                _diverged(row.num_diverged, row.num_runs),
            ]
            for name, row in analysis.overall(self.comparison).items()
        ]

    def glance(self):
        """The panels × learned optimizers, a ratio in each cell."""
        learned = [n for n, style in self.styles.items() if style.learned and self.verdicts.get(n)]
        if not learned:
            return None
        rows = []
        for panel, (best, ratios) in self.lines.items():
            cells = [_ratio(self.verdicts[n][panel]) if n in ratios else _NONE for n in learned]
            rows.append([_Cell(panel, link=self.ids[panel]), *cells, _Cell(best, kind="text")])
        return _Table([(name, None) for name in ("panel", *learned, "best baseline at the horizon")], rows)

    def panels(self):
        drawn = zip(self.ids, self.data["panels"], strict=True)
        return [self._panel(number, *each) for number, each in enumerate(drawn, 1)]

    def _panel(self, number, name, drawn):
        best, ratios = self.lines[name]
        line = [f"best baseline {best}" if ratios or best != "no baseline" else best]
        reasons = self.comparison.left_out.get(name) or {}
        recorded = bool(self.comparison.records[name])
        return {
            "number": number,
            "name": name,
            "id": self.ids[name],
            "it": self.comparison.panels[name],
            "line": "; ".join(line + [f"{n} {r}" for n, r in ratios.items()]),
            "has_log": recorded and drawn["log"] is not None,
            "has_tuning": recorded and drawn["tuning"] is not None,
            "losses": self._losses(name) if recorded else None,
            "images": self.sheets.get(name),
            "has_seconds": recorded and drawn["seconds"] is not None,
            "costs": self._costs(name),
            "clock": self._clock(name),
            "pay_back": self._pay_back(name),
            "left_out": "; ".join(f"{n} {why}" for n, why in reasons.items()),
        }

    def _losses(self, panel):
        it, records = self.comparison.panels[panel], self.comparison.records[panel]
        steps = sorted({it.horizon, it.run_to})
        rows = analysis.rows(records, steps, it.window)
        metrics = list(dict.fromkeys(key for row in rows for key in row if key.startswith("final_")))
        columns = [("optimizer", None), ("ratio", "mean loss at the horizon / the best baseline's")]
        for step in steps:
            columns += [
                (f"mean @ {step:,}", None),
                (f"median @ {step:,}", None),
                (f"IQM @ {step:,}", "interquartile mean"),
            ]
        columns += [(f"{metric.removeprefix('final_')} @ {it.run_to:,}", None) for metric in metrics]
        columns += [
            ("diverged", f"runs, by step {it.run_to:,}"),
            ("setting", "* the best rate is at the edge of those tried"),
        ]
        lines = []
        for name, record in records.items():
            verdict = self.verdicts.get(name, {}).get(panel)
            mine = [row for row in rows if row["optimizer"] == name]
            last = mine[-1]
            lines.append(
                [
                    self._name(name),
                    _ratio(verdict) if verdict else _NONE if record.learned else _Cell("best baseline", 1.0),
                    *(
                        _Cell(number(row[statistic]), row[statistic], below=interval(row[f"{statistic}_interval"]))
                        for row in mine
                        for statistic in ("mean", "median", "iqm")
                    ),
                    *(_Cell(number(last.get(metric)), last.get(metric, np.nan)) for metric in metrics),
                    _diverged(last["num_diverged"], last["num_tasks"]),
                    _Cell(setting(record), kind="text"),
                ]
            )
        return _Table(columns, lines, f"Losses at steps {', '.join(f'{step:,}' for step in steps)}")

    def _costs(self, panel):
        measured = self.comparison.costs.get(panel)
        if not measured:
            return None
        rows = [
            [
                self._name(name),
                _Cell(number(cost.ms_step), cost.ms_step),
                _Cell(number(cost.ms_optimizer), cost.ms_optimizer),
                _Cell(memory(cost.state_bytes), cost.state_bytes),
                _Cell(number(cost.state_bytes / cost.num_params), cost.state_bytes / cost.num_params),
            ]
            for name, cost in measured.items()
        ]
        return {"rows": rows, "size": count(next(iter(measured.values())).num_params, "param")}

    def _clock(self, panel):
        found = analysis.clock(self.comparison, panel)
        if found is None:
            return None
        rows = [
            [
                self._name(name),
                _Cell(number(it.ms_step), it.ms_step),
                _Cell(f"{it.steps:,}" if it.recorded else f"{it.step:,} of {it.steps:,}", it.steps),
                _Cell(number(it.loss.value), it.loss.value, below=interval(it.loss[1:])),
                _Cell("best baseline", 1.0)
                if it.ratio is None
                else _Cell(number(it.ratio.value), it.ratio.value, below=interval(it.ratio[1:])),
                _NONE
                if np.isnan(found.target)
                else _Cell(least + duration(it.seconds_to_target), it.seconds_to_target),
            ]
            for name, it in found.optimizers.items()
            for least in ("" if it.reached else "> ",)
        ]
        notes = [f"{name}: {it.cut()}." for name, it in found.optimizers.items() if not it.recorded]
        told = {"best": found.best, "seconds": duration(found.seconds), "target": number(found.target)}
        return {"rows": rows, "notes": notes, **told}

    def _pay_back(self, panel):
        records = self.comparison.records[panel]
        names = [n for n, r in records.items() if r.learned and panel in self.verdicts.get(n, {})]
        if not names:
            return None
        meta = [(n, self.comparison.meta_training.get(n)) for n in names]
        took = "; ".join(f"{n} {duration(m.seconds)}, {number(m.num_steps)} inner steps" for n, m in meta if m)
        return {"rows": [self._pay_back_row(panel, name) for name in names], "took": took}

    def _pay_back_row(self, panel, name):
        it, verdict = self.comparison.panels[panel], self.verdicts[name][panel]
        paid = analysis.pay_back(self.comparison, panel, name)
        row = [self._name(name), _Cell(verdict.best), _ratio(verdict)]
        if verdict.num_diverged:
            row += [_Cell("diverged", np.nan, "lost"), _NONE, _NONE]
        else:
            least = "" if paid.steps is not None else "> "  # the baseline had not got there when its run ended
            steps = it.run_to if paid.steps is None else paid.steps
            row += [_Cell(f"{least}{steps:,}", steps), _Cell(f"{least}{number(paid.speed_up)} ×", paid.speed_up)]
            measured = self.comparison.costs.get(panel, {})
            if name in measured and verdict.best in measured:
                faster = paid.speed_up * measured[verdict.best].ms_step / measured[name].ms_step
                row.append(_Cell(f"{least}{number(faster)} ×", faster))
            else:
                row.append(_NONE)
        for even in (paid.against_tuning, paid.against_tuned):
            row += [_NONE] * 2 if even is None else [_Cell(solves(value), value) for value in even]
        return row

    def _name(self, name):
        return _Cell(name, style=self.styles[name])


def _diverged(num, num_runs):
    return _Cell(f"{num} of {num_runs}", num, "lost" if num else None)


def _ratio(verdict: analysis.Verdict) -> _Cell:
    mark = {"won": " ●", "lost": " ○", "undecided": ""}[verdict.outcome]
    return _Cell(
        number(verdict.ratio) + mark,
        verdict.ratio,
        None if verdict.outcome == "undecided" else verdict.outcome,
        below=f"{verdict.num_diverged} diverged" if verdict.num_diverged else interval((verdict.low, verdict.high)),
    )


def _asset(name: str) -> str:
    return resources.files("l2o.report").joinpath(name).read_text("utf-8")


def _plotly() -> dict[str, str]:
    """The version of plotly.js, and plotly.js with its licence in a third of its size."""
    script = _asset("plotly/plotly-basic.min.js")
    version = re.search(r"plotly\.js \(.*\) v([\d.]+)", script)
    assert version is not None
    packed = gzip.compress(f"/*\n{_asset('plotly/LICENSE')}*/\n{script}".encode(), mtime=0)
    return {"version": version[1], "packed": base64.b64encode(packed).decode()}
