"""The page of a report: its curves, its tables, and names that are text."""

import json

import numpy as np
import pytest
from comparisons import awkward, comparison, decay, record, three_panels, tuned
from page_reading import Page

from l2o import report
from l2o.evaluation import analysis
from l2o.report import curves, images
from l2o.report.page_data import page_data
from l2o.report.quantities import number
from l2o.report.styles import styles

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
