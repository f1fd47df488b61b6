"""What tests of PyTorch optimizers run, and how they compare. Needs PyTorch."""

import io

import torch


def zeros(*shapes, **options):
    return [torch.nn.Parameter(torch.zeros(shape, **options)) for shape in shapes]


def bowl(optimizer, num_steps=1):
    """Steps on sum |p - 1|^2 of all parameters; where they end."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(num_steps):
        optimizer.zero_grad()
        sum((p - 1).abs().square().sum() for p in params).backward()
        optimizer.step()
    return [p.detach().clone() for p in params]


def through_a_file(saved):
    """By torch's defaults."""
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file)


def assert_equal(some, others):
    assert len(some) == len(others)
    assert all(torch.equal(a, b) for a, b in zip(some, others, strict=True))
