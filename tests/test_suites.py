"""Every suite: its panels are the same, quick or not, and the quick ones run on what ships with the package."""

import jax
import pytest

import l2o
from l2o.core import plugins
from l2o.io.data import _load

SUITES = plugins.names("suites")
PANELS = [(suite, name) for suite in SUITES for name in plugins.get("suites", suite).panels(True)]


def test_there_are_some():
    assert {"convex", "landscapes", "language"} <= set(SUITES)
    with pytest.raises(ValueError, match=r"No suite named 'nope'\. Suites: .*convex.*landscapes"):
        plugins.get("suites", "nope")


@pytest.mark.parametrize("suite", SUITES)
def test_quick_panels_are_the_same_problems_made_small(suite):
    quick, full = (plugins.get("suites", suite).panels(is_quick) for is_quick in (True, False))
    assert list(quick) == [name for name in full if name in quick]  # those whose data do not ship are left out
    for name in quick:
        assert quick[name].horizon <= full[name].horizon
        assert quick[name].run_to <= full[name].run_to


@pytest.mark.parametrize("is_quick", [True, False])
@pytest.mark.parametrize("suite", SUITES)
def test_every_panel_says_where_it_comes_from_and_has_sane_steps(suite, is_quick):
    panels = plugins.get("suites", suite).panels(quick=is_quick)
    assert panels
    for name, panel in panels.items():
        assert name.isidentifier()  # it becomes part of file names
        assert len(panel.source) > 15
        assert callable(panel.make)
        assert 10 <= panel.horizon <= panel.run_to <= 100_000
        assert 1 <= panel.window <= panel.horizon // 4
        assert panel.batch_size is None or panel.batch_size >= 1


@pytest.mark.parametrize(("suite", "name"), PANELS)
def test_quick_panels_pass_the_check_with_nothing_but_the_package(suite, name, monkeypatch, tmp_path):
    def no_network(source, target):
        raise AssertionError(f"{suite}/{name} wants to download {target.name}")

    monkeypatch.delenv("L2O_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_load, "_download", no_network)
    panel = plugins.get("suites", suite).panels(quick=True)[name]
    l2o.check_family(panel.make(), jax.random.key(0), num_tasks=2)
