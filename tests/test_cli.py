"""The command line, run as a user would."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import assert_trees_equal

from l2o.cli._app import COMMANDS, command
from l2o.optimizers import pretrained
from l2o.optimizers.hand_designed import HandDesigned

L2O = [sys.executable, "-c", "from l2o.cli import main; main()"]


def run(*arguments, cwd=None, check=True):
    done = subprocess.run([*L2O, *arguments], cwd=cwd, capture_output=True, text=True, timeout=280)
    assert not check or done.returncode == 0, done.stderr + done.stdout
    return done


def test_help_is_immediate_and_imports_no_jax():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "quickstart" in run("--help").stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.4
    code = "import sys, l2o.cli._app; assert not {'jax', 'numpy', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name):
    made = command(name)
    assert made.help.startswith(COMMANDS[name][1])
    for parameter in made.params:
        assert parameter.name == "help" or parameter.help, f"{name} {parameter.name}"


SHORT = (
    "my_module:family --num-steps 4 --num-tasks 4 --horizon 20 --truncation 10 --validate-every 2 --validation-tasks 4 "
    "-o preset=raw -o num_units=4 --checkpoint-every 2 --cores 2"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of a short run on a user's own task, given as module:attribute."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_module.py").write_text(
        "import jax, jax.numpy as jnp, l2o\n"
        "def family(key):\n"
        "    target = jax.random.normal(key, (3,))\n"
        "    return l2o.FunctionTask(lambda key: jnp.zeros(3), lambda x, key: jnp.sum((x - target) ** 2))\n"
        "def broken(key):\n"
        "    return l2o.FunctionTask(lambda key: jnp.zeros(3), lambda x, key: x)\n"
    )
    return folder, run("train", *SHORT.split(), "--teacher", "none", "--folder", "run", cwd=folder)


def test_train_leaves_one_whole_folder(trained):
    folder, done = trained
    files = {path.name for path in (folder / "run").iterdir()}
    assert {"config.json", "metrics.jsonl", "checkpoints", "weights.safetensors", "curves.png"} <= files
    assert any(name.startswith("events.out.tfevents") for name in files)
    config = json.loads((folder / "run" / "config.json").read_text())
    assert (config["seed"], config["teacher"], config["imitation_steps"]) == (0, "none", 1000)
    assert config["versions"]["jax"]
    assert len((folder / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    assert "adam" in done.stdout


def test_the_weights_know_the_scale_of_their_gradients(trained):
    """2 (x - target) from x = 0, targets N(0, 1): a root mean square of about 2."""
    folder, _ = trained
    low, middle, high = pretrained.header(folder / "run" / "weights.safetensors")["scale"]["start"]
    assert 0.2 < low < 1 < middle < 3 < high < 6


def test_existing_run_is_refused_without_resume(trained):
    folder, _ = trained
    config = (folder / "run" / "config.json").read_bytes()
    done = run("train", "my_module:family", "--horizon", "20", "--folder", "run", cwd=folder, check=False)
    assert (folder / "run" / "config.json").read_bytes() == config
    assert done.returncode == 2
    assert "already holds a run" in done.stderr
    assert "--resume" in done.stderr


@pytest.mark.slow
@pytest.mark.slowest
def test_a_run_with_a_teacher_is_resumed_from_its_start_to_the_bit(trained):
    folder, _ = trained
    pretrained.save(folder / "teacher.safetensors", HandDesigned("sgd", 20, rate=0.1, schedule="cosine"))
    options = [*SHORT.split(), "--folder", "taught", "--imitation-steps", "3", "--teacher"]
    done = run("train", *options, "teacher.safetensors", cwd=folder)
    assert "Teacher: teacher.safetensors" in done.stdout
    assert "the teacher's on 20 fresh tasks" in done.stdout.replace("\n", " ")
    kept, weights = (folder / "taught" / f"{name}.safetensors" for name in ("start", "weights"))
    start, before = kept.read_bytes(), pretrained.load(weights, beyond=None)
    weights.unlink()
    (folder / "taught" / "checkpoints" / "4.safetensors").unlink()
    other = run("train", *options, "adam", "--resume", cwd=folder, check=False)
    assert other.returncode == 2
    assert "began with teacher 'teacher.safetensors'" in other.stderr
    run("train", *options, "teacher.safetensors", "--resume", cwd=folder)
    assert kept.read_bytes() == start
    assert_trees_equal(pretrained.load(weights, beyond=None), before)


@pytest.mark.slow
def test_compare_own_weights(trained):
    folder, _ = trained
    options = ["--horizon", "20", "--num-tasks", "4", "--tune-tasks", "2", "--folder", "comparison"]
    done = run("compare", "my_module:family", "run/weights.safetensors", "adam", "sgd", *options, cwd=folder)
    assert "run/weights.safetensors / " in done.stdout
    assert "In equal seconds, step " in done.stdout
    rows = json.loads((folder / "comparison" / "table.json").read_text())
    assert {row["optimizer"] for row in rows} == {"run/weights.safetensors", "adam", "sgd"}


@pytest.mark.slow
def test_explain_own_weights(trained):
    folder, _ = trained
    options = ["--num-tasks", "2", "--num-fitted", "2", "-o", "why", "--cores", "1"]
    # The header names the family, which is ours and not the package's: it is run only where we say so.
    refused = run("explain", "run/weights.safetensors", *options, cwd=folder, check=False)
    assert "was trained on my_module:family; if you trust it, pass `--task my_module:family`" in refused.stderr
    options += ["--task", "my_module:family", "--horizon", "20"]
    done = run("explain", "run/weights.safetensors", *options, cwd=folder)
    assert "What weights amounts to" in done.stdout
    written = {path.name for path in (folder / "why").iterdir()}
    figures = {f"behaviour-{what}.{ending}" for what in ("updates", "trajectories", "fit") for ending in ("png", "svg")}
    assert written == {"config.json", "explanation.txt", "explanation.json"} | figures
    numbers = json.loads((folder / "why" / "explanation.json").read_text())
    assert (numbers["family"], numbers["horizon"]) == ("my_module:family", 20)


MISTAKES = [
    (["train", "nosuch"], "No task named 'nosuch'. Tasks: char_rnn"),
    (["train", "quadratic", "--optimizer", "nosuch"], "No optimizer named 'nosuch'. Optimizers: hand_designed, lstm"),
    (["train", "quadratic", "--teacher", "nosuch"], "No pretrained optimizer named 'nosuch'"),
    (["train", "quadratic", "--teacher", "lbfgs"], "lbfgs has no rate to tune"),
    (["train", "quadratic", "--average", "1"], "`average` must be at least 0 and below 1, got 1.0"),
    (["train", "quadratic", "--resume"], "There is no mistake/start.safetensors"),
    (["train", "quadratic", "--estimator", "nosuch"], "No estimator named 'nosuch'. Estimators: bptt, pes"),
    (["train", "quadratic", "--truncation", "30"], "`truncation` must divide `horizon`, got truncation=30"),
    (["train", "quadratic", "-s", "dimension=3"], "unexpected keyword argument 'dimension'"),
    (
        ["train", "convnet", "-s", "channels=4"],
        "`channels` must be a sequence of whole numbers, such as (8, 8), got 4.",
    ),
    (["train", "mlp", "-s", "data=nosuch"], "No data set named 'nosuch'. Data sets:"),
    (["train", "nosuch:family"], "No module named 'nosuch'"),
    (["train", "my_module:broken"], "The loss must be a scalar, got shape (3,)"),
    (["compare", "nosuch", "adam"], "No task or suite named 'nosuch'. Suites: convex, landscapes,"),
    (["compare", "quadratic", "adam", "--quick"], "--quick is for suites (convex, landscapes,"),
    (["compare", "paper", "adam", "--horizon", "5"], "are for a single task; a suite has its own"),
    (["compare", "quadratic", "adam", "--search", "bayes"], "`kind` must be grid or random, got 'bayes'"),
    (["report", "nosuch"], "holds no comparison"),
    (["compare", "quadratic", "adam", "nosuch"], "No optimizer named 'nosuch'. Pretrained:"),
    (["compare", "quadratic", "someone/nosuch"], "no file or folder 'someone/nosuch' here"),
    (["pretrained", "run/nosuch.safetensors"], "No weights file at run/nosuch.safetensors"),
    (["compare", "mlp", "lbfgs"], "lbfgs needs a deterministic loss for its line search"),
    (["explain", "nosuch"], "No pretrained optimizer named 'nosuch'"),
    (["explain", "lstm-quadratic", "--part", "hidden"], "The optimizer has no part 'hidden'. It is one rule"),
    (["pretrained", "nosuch"], "No pretrained optimizer named 'nosuch'"),
]

# `main` for each line of arguments in turn: importing JAX takes most of the time that a mistake does.
MANY = """
import contextlib, io, json, sys
from l2o.cli import main
for line in sys.stdin:
    said, sys.argv, code = io.StringIO(), ["l2o", *json.loads(line)], 0
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            main()
    except SystemExit as stop:
        code = stop.code
    print(json.dumps([code, said.getvalue()]))
"""


@pytest.fixture(scope="module")
def answers(trained):
    """Exit status and standard error of every one of `MISTAKES`."""
    folder, _ = trained
    lines = ""
    for arguments, _ in MISTAKES:
        extra = ["--folder", "mistake"] if arguments[0] in ("train", "compare") else []
        lines += json.dumps([*arguments, *extra]) + "\n"
    done = subprocess.run(
        [sys.executable, "-c", MANY], input=lines, cwd=folder, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_mistakes_are_told_in_one_line(number, answers):
    code, said = answers[number]
    assert code == 2
    assert MISTAKES[number][1] in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.slowest
def test_design_leaves_a_page_weights_and_what_it_takes_to_go_on(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import jax, jax.numpy as jnp, l2o\n"
        "from l2o.evaluation.design import stages\n"
        "few = stages.plan(0.1, 1e3, 0.0)\n"  # the least there is
        "stages.plan = lambda *_: few\n"
        "stages._LEAST_SECONDS, stages._MOST_MORE = 1e9, 0\n"  # no network
        "def family(key):\n"
        "    target = jax.random.normal(key, (3,))\n"
        "    return l2o.FunctionTask(lambda key: jnp.zeros(3), lambda x, key: jnp.sum((x - target) ** 4))\n"
    )
    arguments = ["design", "mine:family", "--horizon", "6", "--minutes", "2", "--folder", "out", "--cores", "1"]
    done = run(*arguments, cwd=tmp_path)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "design.html", "design.json", "design.txt", "weights.safetensors", "candidates"} <= files
    assert (tmp_path / "out" / "design.txt").read_text().strip() in done.stdout.replace("\r", "")
    first = (tmp_path / "out" / "weights.safetensors").read_bytes()
    refused = run(*arguments, cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "already holds a design" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    run(*arguments, "--resume", cwd=tmp_path)
    assert pretrained.load(tmp_path / "out" / "weights.safetensors", beyond=None)
    assert len((tmp_path / "out" / "weights.safetensors").read_bytes()) - len(first) < 100  # but for the seconds
    by_seconds = run(*arguments[:-4], "--folder", "seconds", "--by", "seconds", "--cores", "1", cwd=tmp_path)
    assert "Asked for: least loss after 6 steps, or in the time that these take." in by_seconds.stdout


@pytest.mark.parametrize("command", ["tasks", "optimizers", "pretrained"])
def test_listings(command):
    expected = {"tasks": "rosenbrock", "optimizers": "schedule_free_adam", "pretrained": "lstm-mnist"}
    assert expected[command] in run(command).stdout


def test_card_is_shown():
    assert "Losses" in run("pretrained", "lstm-mnist").stdout


def test_import_is_light():
    code = "import sys, l2o; assert 'jax' not in sys.modules; l2o.meta_train; assert 'jax' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path.cwd())
