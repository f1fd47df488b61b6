"""The short blocks of code in docs/, which no example holds, run as they stand, with what the page takes for granted."""

import re
import textwrap
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
WRITTEN = ("api", "cards", "_build", "tutorials")  # by `make docs`; tutorials run when they are made
BLOCK = re.compile(r"(<!-- example: \S+ -->\n)?```python\n(.*?)```", re.DOTALL)
BLOCKS = [
    pytest.param(page.name, code, id=f"{page.stem}-{i}")
    for page in sorted(DOCS.rglob("*.md"))
    if page.relative_to(DOCS).parts[0] not in WRITTEN
    for i, code in enumerate(code for shown, code in BLOCK.findall(page.read_text()) if not shown)
]
# What a reader of the page has at hand: imports, a loss, params, a problem.
ALL = """
import jax, jax.numpy as jnp, optax
import l2o
from fakes import Descent, bowls
key = jax.random.key(0)
num_steps, params = 100, {"w": jnp.ones((3, 2))}
loss_fn = lambda params: 0.02 * jnp.sum(params["w"] ** 2)
gradient = jax.grad(loss_fn)(params)
"""
OF_PAGE = {
    "index.md": """
from l2o.evaluation.design import stages
family = bowls
smaller = stages.plan(0.1, 1e3, 0.0)
monkeypatch.setattr(stages, "plan", lambda *_: smaller)
monkeypatch.setattr(stages, "_LEAST_SECONDS", 1e9)  # no network
monkeypatch.setattr(stages, "_MOST_MORE", 0)
""",
    "design.md": """
from l2o.evaluation.design import stages
smaller = stages.plan(0.1, 1e3, 0.0)
monkeypatch.setattr(stages, "plan", lambda *_: smaller)
monkeypatch.setattr(stages, "_LEAST_SECONDS", 1e9)  # no network
monkeypatch.setattr(stages, "_MOST_MORE", 0)
""",
    "report.md": """
l2o.compare(
    {"bowls": l2o.Panel.of(bowls, 5)}, ["sgd", "adam"], key=key, num_tasks=4, tune_tasks=2, search=l2o.Search(2),
    measure_costs=False, folder="runs/convex",
)
""",
    "torch.md": """
import torch
import l2o.torch
from l2o.torch import LearnedOptimizer
w, b = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.zeros(2))
convs, rest = [w], [b]
model = lambda x: x @ w.T + b
loss_fn = lambda y, target: 5e-4 * torch.nn.functional.mse_loss(y, target)
batches = [(torch.ones(4, 3), torch.zeros(4, 2)) for _ in range(20)]
rule = l2o.load("lstm-mnist")
optimizer = LearnedOptimizer([w, b], "lstm-mnist")
params = [jnp.ones((2, 3)), jnp.zeros(2)]
loss_fn(model(batches[0][0]), batches[0][1]).backward()
optimizer.step()
""",
}


def test_there_are_some():
    assert len(BLOCKS) >= 10


@pytest.mark.parametrize(("page", "code"), BLOCKS)
def test_block(page, code, tmp_path, monkeypatch):
    if page in ("torch.md", "momentum.md"):
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "page"}
    space["monkeypatch"] = monkeypatch
    exec(ALL + OF_PAGE.get(page, ""), space)
    exec(compile(textwrap.dedent(code), page, "exec"), space)
