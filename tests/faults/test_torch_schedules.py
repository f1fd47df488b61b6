"""PyTorch: schedules, scalers and parameters that join later, as its own tools have them."""

import pytest
from torch_nets import parameter

torch = pytest.importorskip("torch")

from torch_runs import assert_equal, bowl, through_a_file, zeros  # noqa: E402 (after the check that there is one)

from l2o.torch import LearnedOptimizer  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*was meta-trained on gradients"),  # these tests' are of any size
]


# What PyTorch's own tools do with it.


SCHEDULERS = {
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total_steps=5, cycle_momentum=False),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
    "sequential": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.LinearLR(o, total_iters=2), torch.optim.lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
}


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_b6_schedules_go_on_from_a_state_dict(kind, tensor, weights):
    def make():
        optimizer = LearnedOptimizer(zeros(2), weights, lr=torch.tensor(0.5) if tensor else 0.5)
        return optimizer, SCHEDULERS[kind](optimizer)

    def run(optimizer, scheduler, num_steps):
        rates = []
        for _ in range(num_steps):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            bowl(optimizer)
            torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.1)
            scheduler.step()
        return rates

    optimizer, scheduler = make()
    run(optimizer, scheduler, 2)
    again, resumed = make()
    resumed.load_state_dict(through_a_file(scheduler.state_dict()))
    again.load_state_dict(through_a_file(optimizer.state_dict()))
    again.param_groups[0]["params"][0].data.copy_(optimizer.param_groups[0]["params"][0])
    rates = run(optimizer, scheduler, 2)
    assert run(again, resumed, 2) == rates
    assert_equal(again.param_groups[0]["params"], optimizer.param_groups[0]["params"])


def test_b6_a_plateau_and_a_scaler_that_skips(weights):
    optimizer = LearnedOptimizer(zeros(2), weights)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    for _ in range(2):
        bowl(optimizer)
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == 0.5
    (p,) = optimizer.param_groups[0]["params"]
    before, state = p.detach().clone(), optimizer.state[p]["state"].clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((p * float("inf")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(p, before)
    assert torch.equal(optimizer.state[p]["state"], state)


def test_b6_a_parameter_that_joins_later_starts_its_own_state(weights):
    a, b, alone = parameter(1.0), parameter(2.0), parameter(2.0)
    optimizer, reference = LearnedOptimizer([a, b], weights), LearnedOptimizer([alone], weights)
    a.grad = torch.tensor([0.1])
    optimizer.step()
    optimizer.load_state_dict(through_a_file(optimizer.state_dict()))  # with one state of two
    for _ in range(2):
        b.grad, alone.grad = torch.tensor([0.2]), torch.tensor([0.2])
        optimizer.step()
        reference.step()
    torch.testing.assert_close(b, alone)
