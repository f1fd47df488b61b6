"""Any name works in every output, and none leads out of its folder."""

import json
import subprocess
import sys

import jax
import optax
import pytest
from comparisons import comparison as made_up
from comparisons import decay, record, tuned
from fakes import bowl

import l2o
from faults.run_folders import hostile
from l2o import report
from l2o.evaluation import comparison
from l2o.evaluation import records as results
from l2o.evaluation.tuning import Search
from l2o.io.names import file_name

KEY = jax.random.key(0)
PANEL = l2o.Panel(lambda: bowl, 3, 4, "x^2")
SMALL = {"key": KEY, "num_tasks": 2, "tune_tasks": 1, "search": Search(2), "measure_costs": False}
AWKWARD = [
    "..",
    ".",
    "",
    "a/b",
    "../../up",
    "/etc",
    ".hidden",
    "a\0b",
    "$x_1$",
    "_a",
    "a[b]$c",
    "[red]x[/]",
    "CON",
    "a.",
    "ä" * 300,
]


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


# Names


@pytest.mark.parametrize("name", [*AWKWARD, "x" * 5000, "a\nb", "\ud800", "nul.txt", "%2E%2E", "é"])
def test_s2_a_name_is_one_file_in_its_folder(name, tmp_path):
    file = file_name(name)
    assert file not in ("", ".", "..")
    assert "/" not in file
    assert "\\" not in file
    assert not file.startswith(".")
    assert file.isprintable()
    assert len(file.encode()) <= 200
    (tmp_path / f"{file}.npz").write_bytes(b"")
    assert [p.name for p in tmp_path.iterdir()] == [f"{file}.npz"]


def test_s2_different_names_are_different_files():
    names = [
        *AWKWARD,
        "x" * 5000,
        "x" * 5001,
        "%",
        "%2E%2E",
        "%2E.",
        "...",
        "con",
        "a",
        "A",
        "a.",
        "a%2E",
        "CON",
        "%43ON",
    ]
    assert len({file_name(name) for name in names}) == len(set(names))


def test_s2_ordinary_names_are_where_older_versions_put_them():
    assert [file_name(n) for n in ("lstm-mnist", "noisy/bowl", "a b", "f(x)")] == [
        "lstm-mnist",
        "noisy%2Fbowl",
        "a%20b",
        "f%28x%29",
    ]


@pytest.mark.parametrize(("panel", "optimizer"), [("html", ".."), ("..", "html"), ("a", "../../victim"), ("", "")])
def test_s2_a_report_of_hostile_names_touches_nothing_outside(tmp_path, panel, optimizer):
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("mine.html", "x.html", "victim.html", "events.out.tfevents.1.html"):
        (outside / name).write_text("mine")
        (tmp_path / name).write_text("mine")
    before = snapshot(outside)
    folder = hostile(tmp_path / "hostile", panel, optimizer)
    (outside / "report").mkdir()
    before = snapshot(outside)
    report.write(folder, outside / "report")
    after = {p: c for p, c in snapshot(outside).items() if p.parts[0] != "report"}
    assert after == {p: c for p, c in before.items() if p.parts[0] != "report"}
    assert {p.name for p in tmp_path.iterdir()} == {
        "outside", "hostile", "mine.html", "x.html", "victim.html", "events.out.tfevents.1.html"
    }  # fmt: skip
    assert (outside / "report" / "report.html").exists()


def test_s2_only_our_own_events_are_deleted(tmp_path):
    folder = hostile(tmp_path / "c", "html", "fast")
    run = tmp_path / "c" / "events" / "fast"
    run.mkdir(parents=True)
    (run / "notes.html").write_text("mine")
    (run / "events.out.tfevents.1.host.html").write_text("another tool's")
    for _ in range(2):
        report.write(folder)
    assert (run / "notes.html").read_text() == "mine"
    assert (run / "events.out.tfevents.1.host.html").exists()
    assert len(list(run.glob("events.out.tfevents.*@html"))) == 1


@pytest.mark.parametrize("link", ["events", "figures", "events/fast"])
def test_s2_a_link_that_leads_out_of_the_folder_is_refused(tmp_path, link):
    folder = hostile(tmp_path / "c", "p", "fast")
    (tmp_path / "outside").mkdir()
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match=r"is a link that leads out of"):
        report.write(folder)
    assert list((tmp_path / "outside").iterdir()) == []


def test_s2_cells_are_not_written_through_a_link(tmp_path):
    comparison.compare({"p": PANEL}, {"a": optax.sgd(0.1)}, folder=tmp_path / "c", **SMALL)
    cells = tmp_path / "c" / "cells" / "p"
    for path in cells.iterdir():
        path.unlink()
    cells.rmdir()
    (tmp_path / "outside").mkdir()
    cells.symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="is a link that leads out of"):
        comparison.compare({"p": PANEL}, {"a": optax.sgd(0.1)}, folder=tmp_path / "c", resume=True, **SMALL)
    assert list((tmp_path / "outside").iterdir()) == []


def test_s2_names_that_would_look_alike_are_refused(tmp_path):
    folder = hostile(tmp_path / "c", "p", "adam")
    told = json.loads((folder / "comparison.json").read_text())
    told["optimizers"]["ad\x1b[2Jam"] = told["optimizers"]["adam"]
    (folder / "comparison.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"comparison\.json: several panels or optimizers would be shown as 'adam'"):
        results.load(folder)


def test_s2_control_characters_of_names_are_not_shown(tmp_path):
    text = report.write(hostile(tmp_path / "c", "p\x1b[2Jq", "a\x07b")).text
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "pq" in text


# Any name works in every output


@pytest.fixture
def awkward():
    records = {
        name: record(decay(1 + i), learned=i == 0, tuned=tuned() if i else None)
        for i, name in enumerate(AWKWARD[:4] + AWKWARD[8:])
    }
    return made_up({"$p_1$ [b]": records, "_p": dict(list(records.items())[:3]), "p\\$": {}})


def test_b7_figures_draw_any_name(awkward, tmp_path):
    import matplotlib.pyplot as plt

    shown = []
    close = plt.close

    def keep(fig):
        legend = fig.axes[0].get_legend()
        shown.extend([text.get_text() for text in legend.get_texts()] + [fig.axes[0].get_title()])
        assert not any(text.get_parse_math() for text in legend.get_texts())
        close(fig)

    records = awkward.records["$p_1$ [b]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plt, "close", keep)
        report.figure({"$p_1$ [b]": records}, tmp_path / "a.svg", also=[tmp_path / "a[b]$c.png"])
    assert len(shown) == len(records) + 1
    assert shown[-1] == "$p_1$ [b]"
    assert any(text.startswith("_a") for text in shown)
    assert any(text.startswith("$x_1$") for text in shown)
    assert (tmp_path / "a[b]$c.png").stat().st_size > 1000
    report.profile_figure(awkward, tmp_path / "b.png")


def test_b7_the_terminal_shows_any_name(awkward):
    import io

    from rich.console import Console

    said = io.StringIO()
    console = Console(file=said, width=200)
    from l2o.evaluation import analysis

    rows = analysis.rows(awkward.records["$p_1$ [b]"], [20])
    console.print(report.table(rows, title="[bold]title[/nope]"))
    console.print(report.overall_table(awkward))
    for text in ("[bold]title[/nope]", "a[b]$c", "[red]x[/]", "_a"):
        assert text in said.getvalue()


def test_b7_tensorboard_keeps_panels_apart_whatever_their_names(tmp_path):
    from event_reading import events

    from l2o.report.events import write_cell

    for panel in ("a b", "a_b", "a+b", "x.b", "b"):
        write_cell(tmp_path, panel, "$[x]", record(decay()), 1)
    tags = {tag for _, tag, *_ in events(tmp_path)}
    assert tags == {f"{panel}/loss" for panel in ("a b", "a_b", "a+b", "x.b", "b")}
    assert len(list(tmp_path.glob("*/*"))) == 5


@pytest.mark.slowest
@pytest.mark.slow
def test_b7_reports_are_written_for_any_name(tmp_path):
    for i, name in enumerate(AWKWARD):
        folder = hostile(tmp_path / f"c{i}[b]$c", name, name)
        written = report.write(folder)
        assert all(path.exists() for path in written.figures)
        assert written.page.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a[b]$c", *(pytest.param(n, marks=pytest.mark.slowest) for n in ("[red]", "a:warning:b", "_x $y$"))]
)
def test_b7_commands_print_paths_that_exist(tmp_path, name):
    folder = hostile(tmp_path / name, "p", "fast")
    code = "import sys; from l2o.cli import main; sys.argv[0] = 'l2o'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "report", str(folder)], capture_output=True, text=True, check=True
    )
    assert f"Report:  {folder / 'report.html'} (" in done.stdout
    assert f"Summary: {folder / 'summary.txt'}\n" in done.stdout
