"""A file of numbers is read without JAX: comparisons are loaded, told, drawn and written where none is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from comparisons import three_panels

import l2o
from l2o.evaluation.store import Store

# As if they were not installed: importing them is an ImportError.
BLOCKED = "import sys\nsys.modules.update(dict.fromkeys(('jax', 'jaxlib', 'equinox', 'optax')))\n"


def python(code, *arguments):
    env = {**os.environ, "PYTHONPATH": str(Path(l2o.__file__).parents[1])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A comparison as `l2o.compare` records it."""
    found, folder = three_panels(), tmp_path_factory.mktemp("recorded")
    prints = {kind: dict.fromkeys(getattr(found, kind), "f") for kind in ("panels", "optimizers")}
    told = found.meta_training["fast"]._asdict()
    about = {n: {"learned": n == "fast", "meta_training": told if n == "fast" else None} for n in found.optimizers}
    store = Store(folder, False, found.panels, about, found.settings, found.left_out, prints)
    for panel, records in found.records.items():
        for name, record in records.items():
            store.write(panel, name, record._replace(images=np.full((2, 5, 4, 3), 0.5, np.float32)))
        store.write_costs(panel, found.costs[panel])
    return folder


@pytest.mark.parametrize("module", ["records", "analysis", "statistics", "table", "explained"])
def test_importing_does_not_import_jax(module):
    python(
        f"import sys, l2o.evaluation.{module}, l2o.report\nassert not {{'jax', 'equinox', 'optax'}} & set(sys.modules)"
    )


def test_a_comparison_is_loaded_and_told(folder):
    code = "from l2o.evaluation import analysis, records\nfound = records.load(sys.argv[1])\nprint(found.table())\n"
    code += "import json\nprint(json.dumps({n: o.ratio.value for n, o in analysis.overall(found).items()}))"
    *table, overall = python(BLOCKED + code, folder).splitlines()
    assert "\n".join(table) == str(three_panels().table())
    assert json.loads(overall)["adam"] == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_the_report_command_writes_everything(folder, tmp_path):
    python(BLOCKED + "from l2o.cli import main\nmain()", "report", folder, "--output", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "summary.txt", "table.csv", "table.json", "figures", "events"} <= names
    assert "fast" in (tmp_path / "out" / "summary.txt").read_text()
