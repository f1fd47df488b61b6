"""The report: one HTML file that holds all it shows, and needs no network."""

import base64
import gzip
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np

from l2o.evaluation import analysis
from l2o.evaluation.records import Comparison
from l2o.report import images, text
from l2o.report.markup import Cell, Markup, element, joined, table
from l2o.report.page_data import page_data
from l2o.report.quantities import count, duration, interval, memory, number, solves
from l2o.report.settings import setting
from l2o.report.styles import all_optimizers, styles


def page(comparison: Comparison, config: Mapping[str, Any] | None = None, recorded: str | None = None) -> str:
    """The whole report as HTML.

    **Arguments:** `config`: what the command's config.json holds (command, versions); `recorded`: a date; both are only shown.
    """
    return str(_Page(comparison, config, recorded).document())


class _Page:
    def __init__(self, comparison, config, recorded):
        self.comparison = comparison
        self.about = (config, recorded)
        self.styles = styles(all_optimizers(comparison))
        self.verdicts = analysis.verdicts(comparison)
        self.overall = analysis.overall(comparison)
        self.data = page_data(comparison)
        self.sheets = images.sheets(comparison)
        self.lines = text.panel_lines(comparison)
        self.ids = {panel: f"panel-{i}" for i, panel in enumerate(comparison.panels, 1)}

    def document(self) -> Markup:
        name = f"l2o: {text.title(self.comparison)}"
        head = element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
            # An icon of nothing, so that a browser does not ask the server for one.
            Markup('<link rel="icon" href="data:,">'),
            element("title", name),
            element("style", Markup(_asset("page.css"))),
        )
        links = [("Summary", "summary"), ("Overall", "overall"), *self.ids.items(), ("Method", "method")]
        body = element(
            "body",
            element("nav", *(element("a", label, href=f"#{target}") for label, target in links), aria_label="Sections"),
            element("main", self._summary(name), self._overall(), self._panels(), self._method()),
            element(
                "footer",
                f"Written by l2o. Plots by plotly.js {_plotly_version()} (MIT License), which this file holds.",
            ),
            element("script", Markup(_json(self.data)), type="application/json", id="data"),
            element("script", Markup(_packed_plotly()), type="text/plain", id="plotly"),
            element("script", Markup(_asset("page.js"))),
        )
        return joined([Markup("<!DOCTYPE html>\n"), element("html", head, body, lang="en")])

    def _summary(self, name):
        found = [element("h1", name)]
        facts = text.facts(self.comparison, *self.about)
        found.append(
            element(
                "dl",
                *(joined([element("dt", label), element("dd", value)]) for label, value in facts.items()),
                class_="facts",
            )
        )
        for optimizer, sentences in text.findings(self.comparison).items():
            found.append(element("h3", self._swatch(optimizer), optimizer))
            found.append(element("ul", *(element("li", sentence) for sentence in sentences)))
        if notes := text.caveats(self.comparison):
            lines = element("ul", *(element("li", note) for note in notes))
            found.append(element("div", element("h3", "To bear in mind"), lines, class_="bear"))
        found.append(element("p", "Lower losses are better. Brackets are 95 % intervals over tasks.", class_="note"))
        return element("section", *found, id="summary")

    def _overall(self):
        found = [element("h2", "Over all panels")]
        if not self.overall:
            found.append(element("p", "There is no baseline on any panel, so nothing to be relative to."))
            return element("section", *found, id="overall")
        columns = [
            "optimizer",
            ("loss ratio", "interquartile mean over all runs of loss / mean loss of the panel's best baseline"),
            ("P(better)", "probability that a run is better than one of the panel's best baseline's"),
            ("panels", "on which it ran"),
            ("won", "panels on which its loss is smaller than the best baseline's, interval included"),
            ("lost", "panels on which its loss is larger, interval included, or a run diverged"),
            ("diverged", "runs that ended in inf or NaN"),
        ]
        rows = []
        for name, row in self.overall.items():
            better = row.improvement
            rows.append(
                [
                    self._name(name),
                    Cell(_stacked(number(row.ratio.value), interval(row.ratio[1:])), row.ratio.value),
                    Cell(_stacked(number(better.value, 2), interval(better[1:], 2)), better.value)
                    if better
                    else Cell("–", np.nan),
                    Cell(str(row.num_panels), row.num_panels),
                    Cell(str(row.num_won), row.num_won, "won" if row.num_won else None),
                    Cell(str(row.num_lost), row.num_lost, "lost" if row.num_lost else None),
                    Cell(
                        f"{row.num_diverged} of {row.num_runs}", row.num_diverged, "lost" if row.num_diverged else None
                    ),
                ]
            )
        found.append(table(columns, rows, "Each run relative to the best baseline of its panel"))
        if glance := self._glance():
            found.append(glance)
        found.append(element("h3", "Performance profile"))
        found.append(_plot("profile"))
        found.append(
            element(
                "p",
                "The share of an optimizer's runs whose loss is at most so many times the best baseline's mean. Further left and "
                "higher is better; a diverged run never counts.",
                class_="note",
            )
        )
        return element("section", *found, id="overall")

    def _glance(self):
        """The panels × learned optimizers, a ratio in each cell."""
        learned = [n for n, style in self.styles.items() if style.learned and self.verdicts.get(n)]
        if not learned:
            return None
        rows = []
        for panel, (best, ratios) in self.lines.items():
            link = element("a", panel, href=f"#{self.ids[panel]}", class_="name")
            cells = [_ratio(self.verdicts[n][panel]) if n in ratios else Cell("–", np.nan) for n in learned]
            rows.append([Cell(link), *cells, Cell(best, kind="text")])
        columns = ["panel", *learned, "best baseline at the horizon"]
        return table(columns, rows, "Loss at the horizon / the best baseline's; ● won, ○ lost")

    def _panels(self):
        found = [element("h2", "Panels")]
        if len(self.ids) > 1:
            found.append(
                element("div", element("button", "Open or close all", type="button", id="open-all"), class_="controls")
            )
        for i, panel in enumerate(self.comparison.panels):
            found.append(self._panel(i, panel))
        return element("section", *found, id="panels")

    def _panel(self, index, panel):
        it, records = self.comparison.panels[panel], self.comparison.records[panel]
        best, ratios = self.lines[panel]
        line = "; ".join(
            [
                f"best baseline {best}" if ratios or best != "no baseline" else best,
                *(f"{n} {r}" for n, r in ratios.items()),
            ]
        )
        found = [element("summary", panel, element("span", line))]
        what = f"Source: {it.source}. Judged at step {it.horizon:,}, run to step {it.run_to:,}"
        what += f", losses averaged over {it.window} steps." if it.window > 1 else "."
        found.append(element("p", what, class_="note"))
        if not records:
            found.append(element("p", "Nothing is recorded of this panel yet."))
        else:
            found += [self._curves(index, panel), self._losses(panel), self._tuning(index), self._images(panel)]
            found += [self._costs(panel), self._pay_back(panel)]
        if reasons := self.comparison.left_out.get(panel):
            found.append(
                element("p", "Left out: ", "; ".join(f"{n} {why}" for n, why in reasons.items()), ".", class_="note")
            )
        return element("details", *found, id=self.ids[panel], class_="panel", open=index == 0)

    def _curves(self, index, panel):
        drawn = self.data["panels"][index]
        buttons = [
            _toggle("loss", "logarithmic loss", pressed=drawn["log"] is not None, disabled=drawn["log"] is None),
            _toggle("steps", "logarithmic steps", pressed=False),
            _toggle("bands", "bands", pressed=True),
        ]
        note = "Mean over tasks with its 95 % band. A cross marks where a run diverged. A click on a name hides it."
        return joined(
            [
                element("h3", "Loss curves"),
                _plot("curves", index, element("div", *buttons, class_="controls", role="group", aria_label="Axes")),
                element("p", note, class_="note"),
            ]
        )

    def _losses(self, panel):
        it, records = self.comparison.panels[panel], self.comparison.records[panel]
        steps = sorted({it.horizon, it.run_to})
        rows = analysis.rows(records, steps, it.window)
        metrics = list(dict.fromkeys(key for row in rows for key in row if key.startswith("final_")))
        columns = ["optimizer", ("ratio", "mean loss at the horizon / the best baseline's")]
        for step in steps:
            columns += [f"mean @ {step:,}", f"median @ {step:,}", (f"IQM @ {step:,}", "interquartile mean")]
        columns += [f"{metric.removeprefix('final_')} @ {it.run_to:,}" for metric in metrics]
        columns += [
            ("diverged", f"runs, by step {it.run_to:,}"),
            ("setting", "* the best rate is at the edge of those tried"),
        ]
        lines = []
        for name, record in records.items():
            verdict = self.verdicts.get(name, {}).get(panel)
            line = [
                self._name(name),
                _ratio(verdict) if verdict else Cell("–", np.nan) if record.learned else Cell("best baseline", 1.0),
            ]
            mine = [row for row in rows if row["optimizer"] == name]
            for row in mine:
                for statistic in ("mean", "median", "iqm"):
                    line.append(
                        Cell(_stacked(number(row[statistic]), interval(row[f"{statistic}_interval"])), row[statistic])
                    )
            last = mine[-1]
            line += [Cell(number(last.get(m)), last.get(m, np.nan)) for m in metrics]
            diverged = last["num_diverged"]
            line.append(Cell(f"{diverged} of {last['num_tasks']}", diverged, "lost" if diverged else None))
            line.append(Cell(setting(record), kind="text"))
            lines.append(line)
        return joined(
            [element("h3", "Losses"), table(columns, lines, f"Losses at steps {', '.join(f'{s:,}' for s in steps)}")]
        )

    def _tuning(self, index):
        if self.data["panels"][index]["tuning"] is None:
            return None
        note = (
            "Every setting that was tried, on the tuning tasks. A ring marks the one chosen; an open triangle at the top is one "
            "that diverged or ended far above the start. Squares are cosine schedules, diamonds warm-up and cosine."
        )
        return joined([element("h3", "Tuning"), _plot("tuning", index), element("p", note, class_="note")])

    def _images(self, panel):
        if panel not in self.sheets:
            return None
        figures = [
            element(
                "figure",
                element("img", src=uri, alt=f"Images by {name}", loading="lazy"),
                element("figcaption", self._swatch(name), name),
            )
            for name, uri in self.sheets[panel].items()
        ]
        return joined([element("h3", "Images"), element("div", *figures, class_="sheets")])

    def _costs(self, panel):
        measured = self.comparison.costs.get(panel)
        if not measured:
            return None
        columns = [
            "optimizer",
            ("ms/step", "loss, gradient and update; one task alone on one device"),
            ("optimizer alone", "ms of the update; a line search's evaluations are part of it"),
            ("state", "of the optimizer, beside the params"),
            ("bytes/param", "the state's"),
        ]
        rows = [
            [
                self._name(name),
                Cell(number(cost.ms_step), cost.ms_step),
                Cell(number(cost.ms_optimizer), cost.ms_optimizer),
                Cell(memory(cost.state_bytes), cost.state_bytes),
                Cell(number(cost.state_bytes / cost.num_params), cost.state_bytes / cost.num_params),
            ]
            for name, cost in measured.items()
        ]
        size = next(iter(measured.values())).num_params
        return joined(
            [element("h3", "Costs"), table(columns, rows, f"Time and memory of a step, {count(size, 'param')}")]
        )

    def _pay_back(self, panel):
        it, records = self.comparison.panels[panel], self.comparison.records[panel]
        names = [n for n, r in records.items() if r.learned and panel in self.verdicts.get(n, {})]
        if not names:
            return None
        columns = [
            "learned",
            "best baseline",
            ("ratio", "of mean losses at the horizon"),
            ("its steps", f"those that the baseline needs for the learned optimizer's loss at step {it.horizon:,}"),
            ("speed-up, steps", "times as many steps as the learned optimizer takes; above 1 is faster"),
            ("speed-up, time", "times as long; above 1 is faster"),
            (
                "vs tuning, steps",
                "solves until meta-training has paid back against tuning the baseline for every problem, in steps",
            ),
            ("vs tuning, time", "... in seconds on this machine"),
            ("vs tuned, steps", "solves until it has paid back against the baseline tuned once and for all, in steps"),
            ("vs tuned, time", "... in seconds on this machine"),
        ]
        rows = [self._pay_back_row(panel, name) for name in names]
        meta = [(n, self.comparison.meta_training.get(n)) for n in names]
        took = "; ".join(f"{n} {duration(m.seconds)}, {number(m.num_steps)} inner steps" for n, m in meta if m)
        parts = [
            element("h3", "Speed-up and break-even"),
            table(columns, rows, "Beside the best baseline; break-even in solves"),
        ]
        return joined([*parts, element("p", f"Meta-training: {took}.", class_="note") if took else None])

    def _pay_back_row(self, panel, name):
        it, verdict = self.comparison.panels[panel], self.verdicts[name][panel]
        paid = analysis.pay_back(self.comparison, panel, name)
        row = [self._name(name), verdict.best, _ratio(verdict)]
        if verdict.num_diverged:
            row += [Cell("diverged", np.nan, "lost"), Cell("–", np.nan), Cell("–", np.nan)]
        else:
            least = "" if paid.steps is not None else "> "  # the baseline had not got there when its run ended
            row.append(
                Cell(
                    f"{least}{it.run_to if paid.steps is None else paid.steps:,}",
                    it.run_to if paid.steps is None else paid.steps,
                )
            )
            row.append(Cell(f"{least}{number(paid.speed_up)} ×", paid.speed_up))
            measured = self.comparison.costs.get(panel, {})
            if name in measured and verdict.best in measured:
                faster = paid.speed_up * measured[verdict.best].ms_step / measured[name].ms_step
                row.append(Cell(f"{least}{number(faster)} ×", faster))
            else:
                row.append(Cell("–", np.nan))
        for even in (paid.against_tuning, paid.against_tuned):
            for value in even or ():
                row.append(Cell(solves(value), value))
            if even is None:
                row += [Cell("–", np.nan)] * 2
        return row

    def _method(self):
        return element(
            "section", element("h2", "Method"), element("ul", *(element("li", line) for line in _METHOD)), id="method"
        )

    def _name(self, name):
        return Cell(element("span", self._swatch(name), name, class_="name"))

    def _swatch(self, name):
        style = self.styles[name]
        kinds = [
            "swatch",
            *(["black"] if style.colour == "#000000" else []),
            *(["dashed"] if style.dash != "solid" else []),
        ]
        return element("span", class_=" ".join(kinds), style=f"--swatch: {style.colour}")


_METHOD = (
    "All optimizers run on the same tasks, starting points and minibatches of a panel: those of the test keys. A run's loss at a "
    "step is the mean of the panel's last few losses there (its window).",
    "Every baseline is tuned with the same number of trials, on other keys than those reported: learning rate (and schedule and "
    "weight decay where searched) with the smallest mean loss at the horizon over the tuning tasks. Everything else is optax's "
    "default. Learned optimizers are not tuned.",
    "The best baseline of a panel is the one with the smallest mean loss at the horizon on the test tasks; it is chosen after "
    "the fact, which favours the baselines.",
    "Intervals of means are studentized bootstrap intervals (Efron & Tibshirani 1993, section 12.5), of other statistics "
    "percentile intervals expanded for small samples (Hesterberg 2015, section 4.1), of ratios paired over tasks; all 95 %.",
    "Over panels: interquartile means of the runs' ratios to the best baseline's mean, probability of improvement, and intervals "
    "by resampling within panels (Agarwal et al. 2021). Performance profiles after Dolan & Moré (2002).",
    "Losses below single precision's rounding of the loss at the start count as that. A run that ends in inf or NaN is never "
    "dropped: it makes a mean infinite, loses against any finite one, and is counted.",
    "Times are medians over rounds in which all optimizers take turns, one task alone on one device. Break-even: how many "
    "problems must be solved before what meta-training took is saved again; against tuning, a baseline gets as many runs per "
    "problem as trials here; against tuned, one run of as many steps as it needs for the same loss.",
)


def _stacked(value: str, below: str) -> str:
    return joined([value, element("small", below)]) if below else value


def _ratio(verdict: analysis.Verdict) -> Cell:
    mark = {"won": " ●", "lost": " ○", "undecided": ""}[verdict.outcome]
    below = interval((verdict.low, verdict.high))
    if verdict.num_diverged:
        below = f"{verdict.num_diverged} diverged"
    return Cell(
        _stacked(number(verdict.ratio) + mark, below),
        verdict.ratio,
        None if verdict.outcome == "undecided" else verdict.outcome,
    )


def _plot(kind: str, panel: int | None = None, controls: Markup | None = None) -> Markup:
    attributes = {} if panel is None else {"data_panel": str(panel), "data_slug": f"panel-{panel + 1}"}
    plot = element("div", class_="plot", data_plot=kind, **attributes)
    return element("div", controls, plot, class_="figure")


def _toggle(axis: str, label: str, *, pressed: bool, disabled: bool = False) -> Markup:
    pressed_ = "true" if pressed else "false"
    return element("button", label, type="button", data_axis=axis, aria_pressed=pressed_, disabled=disabled)


def _json(data: Any) -> str:
    """For a script element, which "</script>" in a name would end."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return resources.files("l2o.report").joinpath(name).read_text("utf-8")


def _packed_plotly() -> str:
    """plotly.js in a third of its size."""
    import plotly.offline

    return base64.b64encode(gzip.compress(plotly.offline.get_plotlyjs().encode(), mtime=0)).decode()


def _plotly_version() -> str:
    import plotly.offline

    return plotly.offline.get_plotlyjs_version()
