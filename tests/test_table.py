"""The table of a comparison: numbers that can be derived on paper, and words that say them."""

import numpy as np
import pytest
from comparisons import awkward, comparison, decay, record, three_panels, tuned

from l2o.evaluation import analysis


def test_numbers_are_those_of_the_analysis():
    found = three_panels()
    easy = found.table().panels[0]
    assert (easy.panel, easy.horizon, easy.steps, easy.best) == ("easy", 20, (2, 10, 20, 40), "adam")
    fast, sgd, adam = easy.rows
    assert [row.optimizer for row in easy.rows] == ["fast", "sgd", "adam"]
    for row, loss in ((adam, 1.5), (fast, 0.75), (sgd, 4.5)):  # tasks differ by a factor of up to two, 1.5 on average
        np.testing.assert_allclose(
            [m.value for m in row.losses], [loss * 0.5 ** (t / 10) for t in easy.steps], rtol=1e-6
        )
        assert all(m.low < m.value < m.high for m in row.losses)
    assert fast.ratio == pytest.approx((0.5, 0.5, 0.5))
    assert adam.ratio is None
    assert [row.seconds for row in easy.rows] == [0.08, 0.02, 0.04]  # 20 steps of 4, 1 and 2 ms
    verdict = analysis.verdicts(found)["sgd"]["easy"]
    assert sgd.ratio == (verdict.ratio, verdict.low, verdict.high)


def test_text_has_a_row_for_each_optimizer():
    text = str(three_panels().table([20])).splitlines()
    assert text[:2] == [
        "easy: mean loss over tasks [95 % interval]",
        "optimizer            loss at 20    / adam at 20  s/run        loss in 0.04 s  s to 0.375",
    ]
    assert text[2].split() == [
        "fast",
        "0.188",
        "[0.149,",
        "0.226]",
        "0.5",
        "[0.5,",
        "0.5]",
        "0.08",
        "0.375",
        "[0.298,",
        "0.452]",
        "0.04",
    ]
    assert "best baseline   0.04" in text[4]
    assert len({len(line) for line in text[1:5]}) == 1
    assert repr(three_panels().table()) == str(three_panels().table())


def test_a_run_that_diverged_is_counted_and_who_is_missing_is_named():
    text = str(awkward().table())
    assert "1 diverged" in text
    assert "lbfgs left out: it needs a deterministic loss." in text
    alone = next(panel for panel in awkward().table().panels if panel.panel == "lone")
    assert alone.best is None
    assert alone.rows[0].ratio is None
    signed = next(panel for panel in awkward().table().panels if panel.panel == "negative")
    assert np.isnan(signed.rows[0].ratio.value)  # a ratio of negative losses says nothing


def test_losses_are_means_over_the_window():
    found = comparison({"p": {"adam": record(decay(), tuned=tuned())}}, window=5)
    (mean,) = found.table([20]).panels[0].rows[0].losses
    assert mean.value == pytest.approx(1.5 * np.mean([0.5 ** (t / 10) for t in range(16, 21)]), rel=1e-6)


def test_whose_steps_were_not_all_recorded_has_an_asterisk_and_a_note():
    found = three_panels()
    found.costs["easy"]["sgd"] = found.costs["easy"]["sgd"]._replace(ms_step=0.5)  # 80 steps in the time of adam's 20
    *_, sgd, _, note = str(found.table([20]).panels[0:1][0].cells()), "", found.table([20]).panels[0].notes()
    assert "0.281 [0.223, 0.339] *" in sgd
    assert note == ["* sgd: its loss after 40 steps, all that were recorded; in that time it takes 80."]
    assert found.table().markdown().count("all that were recorded") == 1


def test_without_costs_nothing_is_said_by_the_clock():
    found = three_panels()._replace(costs={})
    assert found.table([20]).panels[0].cells()[0] == ["optimizer", "loss at 20", "/ adam at 20", "s/run"]


def test_a_single_task_has_no_interval():
    found = comparison({"p": {"adam": record(decay(num_tasks=1), tuned=tuned())}}, num_tasks=1)
    assert found.table([20]).panels[0].cells()[1][1] == "0.25"


def test_names_are_text_in_markdown_and_html():
    evil = "<b>|</b>"
    found = comparison({"p": {evil: record(decay(), learned=True), "adam": record(decay(2))}}).table()
    assert "| &lt;b&gt;\\|&lt;/b&gt; |" in found.markdown()
    assert "<td>&lt;b&gt;|&lt;/b&gt;</td>" in found._repr_html_()
    assert found.markdown().splitlines()[3].count("|") == 8


def test_steps_that_were_not_run_are_refused():
    with pytest.raises(ValueError, match="`steps` must be from 0 to 40 for the panel 'easy', got 41"):
        three_panels().table([41])
