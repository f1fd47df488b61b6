"""The PyTorch examples run, and do what they say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parent.parent


def run(*arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_shipped_optimizer_trains_the_perceptron():
    assert float(run("examples/with_torch.py")) < 0.6  # from log(10)


def test_a_few_meta_steps_on_a_torch_loop_help():
    before, after = (
        float(x) for x in re.findall(r"^(?:before|after): (\S+)$", run("examples/meta_train_torch.py", "15"), re.M)
    )
    assert after < 0.5 * before
