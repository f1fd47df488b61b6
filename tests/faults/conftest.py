"""What several of these files start with. (No l2o at the top: it would escape the run-time type checking.)"""

import pytest


@pytest.fixture
def weights():
    """A small rule's, as PyTorch takes them."""
    from fakes import tiny_lstm

    from l2o.optimizers import pretrained

    return pretrained.as_dict(tiny_lstm())


@pytest.fixture
def saved(tmp_path):
    """A small rule's weights file."""
    from fakes import tiny_lstm

    from faults.weight_files import RECIPE
    from l2o.optimizers import pretrained

    path = tmp_path / "tiny.safetensors"
    pretrained.save(path, tiny_lstm(), recipe=RECIPE)
    return path
