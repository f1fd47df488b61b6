"""Reports in words: numbers as people read them, and sentences that say who wins."""

import pytest
from comparisons import awkward, comparison, decay, record, three_panels, tuned
from page_reading import Page

from l2o import report
from l2o.evaluation import analysis
from l2o.report import text
from l2o.report.quantities import duration, listed, memory, number, solves
from l2o.report.settings import missing, setting


def flowing(lines):
    """Text without its line breaks."""
    return " ".join(lines.split())


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
    assert len(said[: said.index("Best baselines")].split()) < 300
    assert max(map(len, said.splitlines())) <= 96
