"""Neither framework needs the other."""

import subprocess
import sys

import pytest

pytest.importorskip("torch")

BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(name + " is blocked", name=name)
sys.meta_path.insert(0, Blocked())
"""

WITHOUT_JAX = """
import warnings
import torch
warnings.filterwarnings("ignore", ".*was meta-trained on gradients")  # this loss is nobody's home
torch.set_num_threads(1)
import l2o
import l2o.torch
p = torch.nn.Parameter(torch.ones(3))
for name in l2o.torch.names(partitioned=False):
    optimizer = l2o.torch.LearnedOptimizer([p], name)
    with l2o.torch.Recorder() as recorder:
        for _ in range(3):
            optimizer.zero_grad()
            (p**2).sum().backward()
            optimizer.step()
    assert recorder.recordings()[0].gradients.shape == (3, 3)
    l2o.torch.save_state(sys.argv[1], optimizer)
    l2o.torch.load_state(sys.argv[1], optimizer)
assert not {"jax", "equinox", "optax"} & set(sys.modules)
"""

WITHOUT_TORCH = """
import l2o
for name in l2o.__all__:
    getattr(l2o, name)
l2o.load("lstm-mnist")
assert "torch" not in sys.modules
try:
    import l2o.torch
except ImportError as error:
    assert "pip install 'l2o[torch]'" in str(error)
else:
    raise AssertionError
"""


@pytest.mark.parametrize(
    ("blocked", "code"), [({"jax", "jaxlib", "equinox", "optax", "jaxtyping"}, WITHOUT_JAX), ({"torch"}, WITHOUT_TORCH)]
)
def test_without(blocked, code, tmp_path):
    script = BLOCK.format(blocked=sorted(blocked)) + code
    arguments = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "state.safetensors")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
