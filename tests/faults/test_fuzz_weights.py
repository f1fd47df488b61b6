"""Ten thousand mutated weights files and five hundred mutated pictures: see `fuzzing.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def fuzz(kind, num, folder):
    script = Path(__file__).with_name("fuzzing.py")
    done = subprocess.run(
        [sys.executable, script, kind, str(num), folder], capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("num", [200, pytest.param(10_000, marks=pytest.mark.slowest)])
def test_s3_mutated_weights_are_taken_or_refused(num, tmp_path):
    found = fuzz("weights", num, tmp_path)
    assert min(found["taken"], found["refused"]) > num / 10  # or the mutations would be too wild, or too tame


@pytest.mark.slow
@pytest.mark.slowest
def test_s5_mutated_pictures_are_taken_or_refused(tmp_path):
    found = fuzz("pictures", 500, tmp_path)
    assert min(found["taken"], found["refused"]) > 50
