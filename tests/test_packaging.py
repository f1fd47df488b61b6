"""What an installation brings: little, and for the rest a line that says which extra to install."""

import ast
import os
import re
import resource
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from comparisons import three_panels

import l2o
from l2o import report
from l2o.io import data, event_files
from l2o.io.extras import extra
from l2o.tasks import quadratic

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
TOOLS = ("docs", "dev")  # of those who work on l2o, not in it
MODULES = {"Jinja2": "jinja2", "pillow": "PIL", "lazy-loader": "lazy_loader"}  # where distributions are named otherwise
PARTS = {"jinja2": {"markupsafe"}, "jax": {"jaxlib"}}  # imported too, and always there with it


def modules(requirements):
    """The modules that requirements bring, those of extras of ours included."""
    for requirement in requirements:
        if found := re.match(r"l2o\[(.*)\]", requirement):
            for name in found[1].split(","):
                yield from modules(EXTRAS[name])
        else:
            name = re.match(r"[\w-]+", requirement)[0]
            yield MODULES.get(name, name)


def imported():
    """The top-level modules that files of the package import, and where."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((alias.name.split(".")[0], path) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module.split(".")[0], path


def test_every_dependency_is_imported_and_every_import_is_a_dependency():
    used = {name for name, _ in imported()} - sys.stdlib_module_names - {"l2o"}
    declared = set(modules(PROJECT["dependencies"]))
    for name, requirements in EXTRAS.items():
        if name not in TOOLS:
            declared |= set(modules(requirements))
    parts = {part for whole in declared for part in PARTS.get(whole, ())}
    assert declared <= used
    assert used <= declared | parts


def test_all_is_all():
    everything = {name for extra in EXTRAS if extra not in TOOLS for name in modules(EXTRAS[extra])}
    assert set(modules(EXTRAS["all"])) == everything
    assert set(modules(EXTRAS["cli"])) >= {"tensorboardX", "matplotlib", "pooch"}  # whatever commands need


def figure(folder):
    report.figure(three_panels().records, folder / "curves.png")


def table(folder):
    report.overall_table(three_panels())


def page(folder):
    report.page(three_panels())


def events(folder):
    event_files.Appended(folder).add([event_files.scalar("loss", 1.0, 0)])


def training(folder):
    family = quadratic.family(dim=2)
    estimator = l2o.BPTT(l2o.InnerTraining(family, 4, 2), num_tasks=2)
    outer, key = l2o.default_outer_optimizer(), jax.random.key(0)
    try:
        l2o.meta_train(l2o.load("lstm-quadratic", beyond=None), estimator, outer, num_steps=1, key=key, folder=folder)
    finally:
        assert list(folder.glob("*.json*")) == []  # after the installation it can simply be run again


def download(folder):
    data.load("mnist")


@pytest.mark.parametrize(
    ("missing", "use", "said"),
    [
        ("matplotlib", figure, "A figure needs matplotlib: pip install 'l2o[report]'"),
        ("rich", table, "A table needs rich: pip install 'l2o[report]'"),
        ("jinja2", page, "The report's page needs Jinja2: pip install 'l2o[report]'"),
        ("tensorboardX", events, "A file of events for TensorBoard needs tensorboardX: pip install 'l2o[train]'"),
        ("tensorboardX", training, "A file of events for TensorBoard needs tensorboardX: pip install 'l2o[train]'"),
        ("pooch", download, "'mnist' is not here, and downloading it needs pooch: pip install 'l2o[data]'"),
    ],
)
def test_what_is_missing_is_said_with_its_extra(missing, use, said, tmp_path, monkeypatch):
    monkeypatch.delenv("L2O_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        use(tmp_path)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("missing", "arguments", "said"),
    [
        ("typer", ["--help"], "error: The command line needs typer: pip install 'l2o[cli]'\n"),
        ("rich", ["tasks"], "error: `l2o tasks` needs rich: pip install 'l2o[cli]'\n"),
        ("PIL", ["stylize", "--help"], "error: `l2o stylize` needs pillow: pip install 'l2o[cli]'\n"),
    ],
)
def test_the_command_line_says_it_too(missing, arguments, said):
    code = f"import sys; sys.modules[{missing!r}] = None; from l2o.cli import main; main()"
    environment = os.environ | {"TYPER_USE_RICH": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode != 0
    assert done.stderr == said


def test_a_mistake_of_ours_is_no_missing_extra():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'l2o\.nosuch'"), extra("cli"):
        import l2o.nosuch  # noqa: F401


def cpu_seconds(code):
    """Of a Python process, the least of five."""
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


def test_importing_l2o_costs_nothing():
    assert cpu_seconds("import l2o") - cpu_seconds("pass") < 0.05


@pytest.mark.slow
def test_saved_records_are_reported_without_jax(tmp_path):
    task = l2o.FunctionTask(lambda key: jax.random.normal(key, (3,)), lambda x, key: jnp.sum(x**2))
    panels = {"bowl": l2o.Panel(lambda: lambda key: task, 4, 6, "made up")}
    options = {"num_tasks": 2, "tune_tasks": 2, "search": l2o.Search(3), "measure_costs": False}
    l2o.compare(panels, ["sgd", "adam"], key=jax.random.key(0), folder=tmp_path, **options)
    blocked = dict.fromkeys(("jax", "jaxlib", "equinox", "optax"))
    code = f"import sys; sys.modules.update({blocked}); from l2o.cli import main; main()"
    arguments = [sys.executable, "-c", code, "report", str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").is_file()


@pytest.mark.slow
def test_a_base_installation_is_small_and_loads_an_optimizer(tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run([*pip, "install", ROOT], capture_output=True, text=True, env=environment, timeout=900)
    if "Failed to establish a new connection" in done.stderr:
        pytest.skip("no packages can be fetched here")
    assert done.returncode == 0, done.stderr
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    installed = {path.name.partition("-")[0] for path in site.glob("*.dist-info")} - {"pip", "setuptools"}
    assert len(installed) <= 20, installed
    ours = [
        path for path in site.iterdir() if path.name.partition("-")[0] not in ("pip", "setuptools", "pkg_resources")
    ]
    size = sum(file.stat().st_blocks * 512 for path in ours for file in [path, *path.rglob("*")])
    assert size <= 620 * 2**20, f"{size / 2**20:.0f} MB"
    subprocess.run(
        [python, "-W", "error", ROOT / "tests" / "smoke.py"], check=True, cwd=tmp_path, env=environment, timeout=300
    )
    done = subprocess.run([tmp_path / "venv" / "bin" / "l2o"], capture_output=True, text=True, env=environment)
    assert done.stderr == "error: The command line needs typer: pip install 'l2o[cli]'\n"
