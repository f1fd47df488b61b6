"""PyTorch: a complex parameter is a pair of real ones."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import tiny_lstm

torch = pytest.importorskip("torch")

from torch_runs import bowl, through_a_file, zeros  # noqa: E402 (after the check that there is one)

import l2o.torch as l2o_torch  # noqa: E402 (after the check that there is one)
from l2o.torch import LearnedOptimizer, Recorder  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*was meta-trained on gradients"),  # these tests' are of any size
]


# Complex parameters.


def quadratic(z, matrix, centre):
    return (matrix @ (z - centre)).abs().square().sum()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_w8_a_complex_parameter_is_two_real_ones(dtype, weights, tmp_path):
    """On |M (z - c)|^2, whose minimum is where both parts are right; beside a real parameter, with weight decay."""
    generator = torch.Generator().manual_seed(0)
    matrix, centre = (torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((3, 3), (3,)))
    start = torch.tensor([1 + 2j, -3j, 0.5], dtype=dtype)
    z, b = torch.nn.Parameter(start.clone()), torch.nn.Parameter(torch.ones(2))
    parts, c = torch.nn.Parameter(torch.view_as_real(start).clone()), torch.nn.Parameter(torch.ones(2))
    as_complex = LearnedOptimizer([z, b], weights, weight_decay=0.1)
    as_reals = LearnedOptimizer([parts, c], weights, weight_decay=0.1)
    for step in range(6):
        for optimizer, value, other in (
            (as_complex, lambda: z, b),
            (as_reals, lambda: torch.view_as_complex(parts), c),
        ):
            optimizer.zero_grad()
            (quadratic(value(), matrix, centre) + other.square().sum()).backward()
            optimizer.step()
        if step == 2:
            saved = through_a_file(as_complex.state_dict())
            assert saved["state"][0]["state"].shape[1] == 6
            as_complex = LearnedOptimizer([z, b], weights)
            as_complex.load_state_dict(saved)
        if step == 3:
            l2o_torch.save_state(tmp_path / "state.safetensors", as_complex)
            as_complex = LearnedOptimizer([z, b], weights)
            l2o_torch.load_state(tmp_path / "state.safetensors", as_complex)
    assert torch.equal(torch.view_as_real(z.detach()), parts.detach())
    assert not torch.equal(z.detach().imag, start.imag)
    with pytest.raises(ValueError, match=r"parameter 0 of group 0, of shape \(6,\)"):
        LearnedOptimizer(zeros(6, 2), weights).load_state_dict(saved)


def test_w8_the_steps_are_jaxs_on_the_two_parts(weights):
    start, gradient = np.array([[1.0, 2.0], [0.0, -3.0]]), np.array([[0.3, -1e-6], [2.0, 0.1]])
    z = torch.nn.Parameter(torch.view_as_complex(torch.tensor(start, dtype=torch.float32)))
    optimizer, rule = LearnedOptimizer([z], weights), tiny_lstm()
    params = jnp.asarray(start, jnp.float32)
    state = rule.init(params)
    for _ in range(3):
        z.grad = torch.view_as_complex(torch.tensor(gradient, dtype=torch.float32))
        optimizer.step()
        updates, state = rule.update(jnp.asarray(gradient, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(torch.view_as_real(z.detach()).numpy(), params, rtol=1e-5, atol=1e-7)


def test_w8_complex_gradients_that_are_views_or_sparse(weights):
    def stepped(gradient):
        z = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
        z.grad = gradient
        LearnedOptimizer([z], weights).step()
        return z.detach()

    gradient = torch.tensor([1 + 2j, -3j])
    assert torch.equal(stepped(gradient.conj()), stepped(gradient.conj().resolve_conj()))
    with pytest.raises(RuntimeError, match="does not take sparse gradients"):
        stepped(gradient.to_sparse())
    conjugated = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64).conj())
    conjugated.grad = gradient
    with pytest.raises(RuntimeError, match=r"parameter 0 of group 0.*conjugated view"):
        LearnedOptimizer([conjugated], weights).step()


def test_w8_a_recording_of_complex_parameters_is_of_their_parts(weights):
    z = torch.nn.Parameter(torch.tensor([1 + 2j]))
    with Recorder() as recorder:
        bowl(LearnedOptimizer([z], weights), 2)
    (recording,) = recorder.recordings()
    assert recording.params.tolist() == [1.0, 2.0]
    assert recording.gradients[0].tolist() == [0.0, 4.0]  # of |z - 1|^2
