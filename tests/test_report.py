"""Reports say what the records say: also when these are incomplete, diverged, single, or named like HTML."""

import json
import struct
import subprocess
import sys
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparisons import awkward, comparison, decay, record, three_panels, tuned

import l2o
from l2o import report
from l2o.evaluation import analysis
from l2o.report import curves, images, text
from l2o.report.page_data import page_data
from l2o.report.quantities import duration, listed, memory, number, solves
from l2o.report.settings import missing, setting
from l2o.report.styles import styles

L2O = [sys.executable, "-c", "from l2o.cli import main; main()"]


def flowing(lines):
    """Text without its line breaks."""
    return " ".join(lines.split())


class Page(HTMLParser):
    """Elements and attributes of a page, the text of its scripts, and the rows of its tables."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.scripts, self.open, self.shown, self.tables = [], {}, [], "", {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        if tag == "script":
            self.scripts[len(self.scripts)] = ""
        if tag == "table":
            self.rows = self.tables.setdefault(len(self.tables), [])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts[len(self.scripts) - 1] += data
        elif "style" not in self.open:
            self.shown += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data if "small" not in self.open else f" {data}"


# Numbers


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.012345, "0.0123"),
        (1234.5, "1,230"),
        (1e-7, "1e-7"),
        (1.2345e8, "1.23e8"),
        (0.99999, "1"),
        (-2.5, "-2.5"),
        (10.0, "10"),
        (0.0, "0"),
        (float("inf"), "∞"),
        (float("nan"), "n/a"),
        (None, "–"),
    ],
)
def test_numbers(value, shown):
    assert number(value) == shown


def test_durations_memory_solves_and_lists():
    assert [duration(s) for s in (45, 791, 9000, 86400 * 6)] == ["45 s", "13 min", "2.5 h", "6 days"]
    assert [memory(b) for b in (84, 3200, 5.09e6)] == ["84 B", "3.2 kB", "5.09 MB"]
    assert [solves(c) for c in (float("inf"), float("nan"), 106.2, 3.7e7)] == ["never", "n/a", "107", "3.7e7"]
    assert listed(["a", "b", "c"], 3) == "a, b and c"
    assert listed(list("abcdef"), 4) == "a, b, c and 3 more"


# Sentences


def test_sentences_say_who_wins_and_who_loses():
    found = " ".join(text.findings(three_panels())["fast"])
    assert "Beats the best baseline on 1 of 3 panels: easy (0.5 [0.5, 0.5] times the loss of adam)." in found
    assert "Loses on 1 of 3 panels: hard (2 [2, 2] times the loss of adam)." in found
    assert "Undecided (no interval, or one that holds 1) on 1 of 3 panels: same" in found
    assert "A step takes 2 times as long as the best baseline's." in found
    assert "Meta-training took 2 min (6,000 inner steps)" in found or "120 s" in found
    # 4 trials of 20 steps against one: 60 steps saved a solve; in seconds 20 (4 · 2 - 4) ms = 0.08 s of 120.
    assert "counted in steps, after 100 solves; in seconds, after 1,500 solves" in found


def test_steps_that_the_baseline_needs():
    found = " ".join(text.findings(three_panels())["fast"])
    # Losses halve every ten steps: half of adam's is ten steps ahead, twice ten behind.
    assert "adam 30 for 20 (1.5 times as many) on easy" in found
    assert "adam 10 for 20 (0.5 times as many) on hard" in found


def test_verdicts_count_as_the_overall_table_does():
    for found in (three_panels(), awkward()):
        judged, overall = analysis.verdicts(found), analysis.overall(found)
        for name, row in overall.items():
            outcomes = [v.outcome for v in judged[name].values()]
            assert (outcomes.count("won"), outcomes.count("lost")) == (row.num_won, row.num_lost)


def test_gaps_divergence_and_edges_are_said():
    found = " ".join(text.caveats(awkward()))
    assert "Incomplete: " in found
    assert "learned on diverged (1 of 8 runs)" in found
    assert "(8 of 8 runs)" in found
    assert "Every setting tried diverged on some tuning task: adam on all diverged." in found
    assert "Best rate at the edge of those tried, a better one may lie outside: adam on negative (1)." in found
    assert "Without a baseline: lone." in found
    assert "Losses below zero, where ratios say nothing: negative." in found
    assert "lbfgs needs a deterministic loss." in found
    assert "Loses on 1 of 1 panel: diverged (8 runs diverged)." in " ".join(
        text.findings(awkward())["<b>&</b></script><script>alert(1)</script>"]
    )


def test_missing_cells_are_those_neither_recorded_nor_left_out():
    whole = three_panels()
    assert missing(whole) == []
    records = {p: dict(r) for p, r in whole.records.items()}
    del records["hard"]["adam"], records["same"]["fast"]
    part = whole._replace(records=records, left_out={**whole.left_out, "same": {"fast": "cannot"}})
    assert missing(part) == [("hard", "adam")]
    assert "Incomplete: 1 of 8 cells not recorded yet (adam on hard)." in text.caveats(part)


def test_baselines_that_were_not_tuned_are_named():
    mixed = comparison({"p": {"adam": record(decay(), tuned=tuned()), "lbfgs": record(decay(0.5))}})
    assert "Not tuned (no learning rate to tune, or taken as given): lbfgs." in text.caveats(mixed)
    assert text.facts(mixed)["Tuning"].startswith("grid search, 4 trials a baseline")
    assert text.facts(comparison({"p": {"adam": record(decay())}}))["Tuning"].startswith("none")


def test_a_single_run_decides_nothing():
    records = {
        "one": {
            "fast": record(decay(0.1, num_tasks=1), learned=True),
            "adam": record(decay(num_tasks=1), tuned=tuned()),
        }
    }
    found = comparison(records, num_tasks=1)
    said = flowing(report.summarised(found))
    assert "Beats the best baseline on none of 1 panel." in said
    assert "One run each: there are no intervals, and nothing is decided." in said
    assert "nan" not in said
    Page(report.page(found))


def test_no_interval_and_no_speed_up_of_a_diverged_run():
    rows = Page(report.page(awkward())).tables
    (row,) = [
        r
        for table in rows.values()
        for r in table
        if table[0][0].startswith("learned") and r[0] == "learned" and "1 diverged" in r[2]
    ]
    assert row[3:6] == ["diverged", "–", "–"]


def test_tuned_settings():
    searched = tuned(2, schedules=[0, 1, 2, 1], decays=[1e-3, 1e-2, 1e-1, 1.0])
    assert setting(record(decay(), tuned=searched)) == "rate 0.1, warmup + cosine, weight decay 0.1"
    assert setting(record(decay(), tuned=tuned(0))) == "rate 0.001*"
    assert setting(record(decay())) == "not tuned"


def test_a_minute_is_enough():
    said = report.summarised(three_panels())
    assert len(said[: said.index("Best baselines")].split()) < 280
    assert max(map(len, said.splitlines())) <= 96


# What is drawn


def test_curves_are_the_means_at_the_steps_kept():
    losses = decay(run_to=900)
    found = comparison({"long": {"adam": record(losses, tuned=tuned())}}, horizon=333, run_to=900, window=5)
    drawn = page_data(found)["panels"][0]
    steps = drawn["steps"]
    assert len(steps) <= 200
    assert {4, 333, 900} <= set(steps)
    expected = [losses[:, s - 4 : s + 1].mean() for s in steps]
    np.testing.assert_allclose(drawn["curves"][0]["mean"], expected, rtol=6e-4)
    assert all(
        low <= mean <= high
        for _, mean, low, high in zip(steps, *[drawn["curves"][0][k] for k in ("mean", "low", "high")], strict=True)
    )


@pytest.mark.parametrize(("first", "horizon", "last"), [(0, 100, 1000), (9, 10, 5000), (0, 3, 5), (0, 1, 1)])
def test_thinned_steps(first, horizon, last):
    steps = curves.thinned(first, horizon, last)
    assert len(steps) <= max(200, last - first + 1 if last - first < 200 else 0)
    assert {first, horizon, last} <= set(steps.tolist())
    assert (np.diff(steps) > 0).all()


def test_a_diverged_mean_ends_where_the_first_run_does():
    drawn = page_data(awkward())["panels"][0]
    mean = next(c for c in drawn["curves"] if c["name"] == "learned")["mean"]
    assert mean[14] is not None
    assert mean[15:] == [None] * 26


def test_axis_ignores_what_blows_up():
    losses = decay()
    wild = losses.copy()
    wild[:, 30:] = 1e30
    low, high = curves.loss_range(
        [curves.curve(record(losses)), curves.curve(record(wild))], float(losses[:, 0].mean())
    )
    assert losses.min() / 2 < low < losses.mean(axis=0).min()
    assert high < 5 * losses.max()


def test_profile_is_the_share_of_runs():
    found = curves.profile(three_panels())
    # adam's runs lie within a factor of two of its own mean; on "easy" only does "fast" get below 0.5.
    at_two = int(np.searchsorted(found["adam"].x, 2.0))
    assert found["adam"].mean[at_two] == 1.0
    assert found["fast"].mean[at_two] == pytest.approx((1 + 1 + 4 / 8) / 3, abs=0.1)
    assert (np.diff(found["fast"].mean) >= 0).all()


def test_an_optimizer_keeps_its_colour():
    names = {f"optimizer {i}": i == 5 for i in range(20)}
    found = styles(names)
    assert next(iter(found)) == "optimizer 5"
    assert len({(s.colour, s.dash) for s in found.values()}) == 20


def test_tuning_plot_holds_every_trial():
    drawn = page_data(awkward())["panels"][0]["tuning"]
    assert drawn["trials"][0]["loss"] == [0.3, 0.1, 0.3, None]
    assert drawn["trials"][0]["chosen"] == 1
    assert "weight decay 0.01" in drawn["trials"][0]["hover"][1]
    assert not drawn["lines"]  # trials that differ in more than their rate are no line
    assert page_data(awkward())["panels"][4]["tuning"] is None


# The page


def test_page_holds_all_it_needs():
    page = report.page(awkward(), {"command": "l2o compare 'a & b'", "versions": {"jax": "1.2"}}, "2024-01-02")
    parsed = Page(page)
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    targets = {a["href"][1:] for t, a in parsed.elements if t == "a"}
    assert targets <= {a.get("id") for _, a in parsed.elements}
    assert "l2o compare 'a & b'" in parsed.shown
    assert "jax 1.2" in parsed.shown


def test_names_are_text_and_never_markup():
    parsed = Page(report.page(awkward()))
    assert [a.get("id") for t, a in parsed.elements if t == "script"] == ["data", "plotly", None]
    assert not [t for t, _ in parsed.elements if t == "b"]
    assert (
        json.loads(parsed.scripts[0])["panels"][0]["curves"][1]["name"] == "<b>&</b></script><script>alert(1)</script>"
    )


def test_tables_show_the_rows():
    parsed = Page(report.page(three_panels()))
    (losses,) = [t for i, t in parsed.tables.items() if t[0][0] == "optimizer" and "mean @ 20" in t[0]][:1]
    assert losses[0][-3:] == ["accuracy @ 40", "diverged", "setting"]
    by_name = {row[0]: row for row in losses[1:]}
    row = analysis.rows(three_panels().records["easy"], [20])[2]
    assert by_name["adam"][2].startswith(number(row["mean"]) + " [")
    assert by_name["adam"][1] == "best baseline"
    assert by_name["fast"][1].startswith("0.5 ●")
    assert by_name["sgd"][-3:] == ["0.5", "0 of 8", "rate 0.001*"]


def test_every_optional_part_may_be_absent():
    shown = Page(report.page(awkward())).shown
    assert "Nothing is recorded of this panel yet." in shown
    assert "Costs" not in shown
    assert "Images" in shown
    empty = comparison({})
    assert "0 optimizers on 0 panels" in Page(report.page(empty)).shown
    assert "no baseline" in Page(report.page(comparison({"p": {"x": record(decay(), learned=True)}}))).shown


@pytest.mark.slowest
@pytest.mark.slow
def test_a_large_suite_stays_below_six_megabytes():
    noise = np.random.default_rng(0).uniform(0, 1, (8, 64, 64, 3)).astype(np.float32)  # what PNG cannot compress
    names = [f"optimizer {i}" for i in range(10)]
    rates = np.geomspace(1e-4, 10, 60)
    records = {
        f"panel {p}": {
            n: record(
                decay(1 + i, num_tasks=10, run_to=1000, seed=i),
                learned=i < 2,
                tuned=tuned(30, rates=rates) if i >= 2 else None,
                images=noise if p < 3 else None,
            )
            for i, n in enumerate(names)
        }
        for p in range(12)
    }
    page = report.page(comparison(records, horizon=500, run_to=1000))
    assert len(page.encode()) < 6_000_000


def test_sheets_shrink_to_what_there_is_room_for():
    picture = np.random.default_rng(0).uniform(0, 1, (4, 32, 32, 3)).astype(np.float32)
    found = comparison({"p": {"a": record(decay(), images=picture), "b": record(decay(), images=picture)}})
    size = lambda sheets: sum(len(uri) for uri in sheets["p"].values())
    assert size(images.sheets(found)) > 20_000
    assert size(images.sheets(found, most_bytes=8_000)) <= 8_000


def test_sheet_is_the_images_side_by_side():
    import base64
    import io

    import matplotlib.image

    picture = np.zeros((2, 4, 4, 3), np.float32)
    picture[0, ..., 0] = picture[1, ..., 1] = 1
    uri = images.sheets(comparison({"p": {"a": record(decay(), images=picture)}}))["p"]["a"]
    decoded = matplotlib.image.imread(io.BytesIO(base64.b64decode(uri.split(",")[1])), format="png")
    np.testing.assert_array_equal(decoded[:, :4, :3], picture[0])
    np.testing.assert_array_equal(decoded[:, -4:, :3], picture[1])


# Files


class _SignDescent(l2o.AbstractLearnedOptimizer):
    log_step: jax.Array

    def init(self, params):
        return ()

    def update(self, updates, state, params=None, **extra):
        return jax.tree.map(lambda g: -jnp.exp(self.log_step) * jnp.sign(g), updates), state


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A comparison that was really run, with two panels whose names make one file name."""
    from l2o.evaluation.comparison import compare

    folder = tmp_path_factory.mktemp("comparison")
    task = l2o.FunctionTask(lambda key: jax.random.normal(key, (3,)), lambda x, key: jnp.sum(x**2))
    panels = {name: l2o.Panel(lambda: lambda key: task, 4, 6, "made up") for name in ("A b", "a-b")}
    optimizers = {"signs": _SignDescent(jnp.float32(-2.0)), "sgd": "sgd", "adam": "adam"}
    search = l2o.Search(num_trials=3)
    options = {"num_tasks": 4, "tune_tasks": 2, "search": search, "measure_costs": False}
    compare(panels, optimizers, key=jax.random.key(0), folder=folder, devices=jax.local_devices()[:1], **options)
    (folder / "config.json").write_text(json.dumps({"command": "l2o compare mine", "versions": {"jax": "9.9"}}))
    return folder


@pytest.mark.slow
def test_report_command_writes_everything(folder, tmp_path):
    done = subprocess.run(
        [*L2O, "report", str(folder), "--output", str(tmp_path)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    said = flowing((tmp_path / "summary.txt").read_text())
    assert said in flowing(done.stdout)
    assert "l2o compare mine" in said
    assert "signs" in said
    assert str(tmp_path / "report.html") in done.stdout
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == {f"{n}.{e}" for n in ("a-b", "a-b-2", "performance-profile") for e in ("svg", "png")}
    assert (tmp_path / "figures" / "a-b.svg").read_text().lstrip().startswith("<?xml")
    assert len(json.loads((tmp_path / "table.json").read_text())) == 2 * 3 * 2
    assert (tmp_path / "table.csv").read_text().startswith("panel,optimizer,")
    assert len(list((tmp_path / "events").glob("*/*tfevents*"))) == 6
    assert not (folder / "report.html").exists()


def test_folder_without_a_comparison_is_told(tmp_path):
    done = subprocess.run([*L2O, "report", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "holds no comparison" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_figures_of_awkward_comparisons(tmp_path):
    found = awkward()
    for i, (panel, records) in enumerate(found.records.items()):
        if records:
            path = report.figure({panel: records}, tmp_path / f"{i}.svg", horizon={panel: 20})
            assert path.stat().st_size > 1000
    report.profile_figure(found, tmp_path / "profile.png")
    report.image_figure(next(r for p, r in found.records.items() if p.startswith("panel")), tmp_path / "images.png")


def events(folder):
    """All scalars [(run, tag, step, value)] of the event files below a folder."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in folder.glob("*/*tfevents*"):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                found.append(
                    (
                        path.parent.name,
                        value.tag,
                        event.step,
                        value.simple_value if value.HasField("simple_value") else None,
                    )
                )
    return found


def test_events_hold_the_curves_once(tmp_path):
    found = three_panels()
    for _ in range(2):  # as often as one likes: earlier events are replaced
        report.write_events(found, tmp_path)
    scalars = events(tmp_path)
    mine = [(step, value) for run, tag, step, value in scalars if (run, tag) == ("fast", "easy/loss")]
    np.testing.assert_array_equal([step for step, _ in mine], np.arange(41))
    np.testing.assert_allclose(
        [v for _, v in mine], found.records["easy"]["fast"].curves.losses.mean(axis=0), rtol=1e-6
    )
    assert ("adam", "hard/accuracy", 40, pytest.approx(0.8)) in scalars


def test_events_end_where_a_run_diverges_and_hold_images(tmp_path):
    report.write_events(awkward(), tmp_path)
    scalars = events(tmp_path)
    assert max(step for run, tag, step, _ in scalars if (run, tag) == ("learned", "diverged/loss")) == 14
    assert [tag for _, tag, _, value in scalars if value is None and "images" in tag]
