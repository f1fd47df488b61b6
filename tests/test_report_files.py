"""A report's files: all that the command writes, figures and events."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparisons import awkward, three_panels
from event_reading import events

import l2o
from l2o import report

L2O = [sys.executable, "-c", "from l2o.cli import main; main()"]


def flowing(lines):
    """Text without its line breaks."""
    return " ".join(lines.split())


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
