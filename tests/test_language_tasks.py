"""Character models: the windows they read, their cells beside equinox's, causality."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import l2o
from l2o.tasks import _characters, char_rnn, transformer

KEY = jax.random.key(0)
SMALL = {"length": 5, "batch_size": 3, "outer_batch_size": 4}


def test_windows_are_pieces_of_their_split():
    text = _characters.load("persuasion", **SMALL)
    train, test, vocabulary = l2o.data.load_text("persuasion")
    written = {split: "".join(vocabulary[i] for i in ids) for split, ids in (("train", train), ("test", test))}
    for split, size in (("train", 3), ("outer", 4), ("test", 4)):
        windows = text.batch(KEY, split)
        assert windows.shape == (size, 6)
        for window in windows:
            assert "".join(vocabulary[i] for i in window) in written["test" if split == "test" else "train"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_all_windows_predict_every_character_once(split):
    text = _characters.load("persuasion", **SMALL)
    ids = text.test if split == "test" else text.train
    windows = np.asarray(text.all_windows(split))
    predicted = windows[:, 1:].reshape(-1)
    np.testing.assert_array_equal(predicted, ids[1 : len(predicted) + 1])
    assert len(text.test) - 1 - len(predicted) < 5  # what does not fill a window is left


def test_last_window_is_reached():
    ids = jnp.arange(6)
    text = _characters.Characters(ids, ids, 6, length=5, batch_size=200, outer_batch_size=1)
    np.testing.assert_array_equal(np.unique(text.batch(KEY, "train"), axis=0), [ids])
    text = _characters.Characters(ids, ids, 6, length=2, batch_size=200, outer_batch_size=1)
    assert np.unique(text.batch(KEY, "train")[:, 0]).tolist() == [0, 1, 2, 3]


def hidden_states(cell, params, ids):
    """What equinox's cell makes of one window: [length, hidden]."""
    W, U, b, hidden = params["W"], params["U"], params["b"], params["U"].shape[0]
    if cell == "lstm":  # equinox's order of gates is i, f, g, o
        order = [0, 1, 3, 2]
        W, U, b = (jnp.concatenate([jnp.split(x, 4, axis=-1)[i] for i in order], axis=-1) for x in (W, U, b))
    make = {"gru": eqx.nn.GRUCell, "lstm": eqx.nn.LSTMCell}[cell]
    network = make(len(W), hidden, key=KEY)
    network = eqx.tree_at(lambda n: (n.weight_ih, n.weight_hh, n.bias), network, (W.T, U.T, b))
    if cell == "gru":
        network = eqx.tree_at(lambda n: n.bias_n, network, jnp.zeros(hidden))

    def step(state, i):
        state = network(jax.nn.one_hot(i, len(W)), state)
        return state, state if cell == "gru" else state[0]

    zeros = jnp.zeros(hidden)
    return jax.lax.scan(step, zeros if cell == "gru" else (zeros, zeros), ids)[1]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_cells_are_equinox_s(cell, x64):
    task = char_rnn.family(cell=cell, hidden=3, **SMALL)(KEY)

    @eqx.filter_jit
    def both_losses(task):
        flat, unravel = ravel_pytree(task.init(KEY))
        params = unravel(flat + 0.3 * jax.random.normal(KEY, flat.shape))  # biases too
        windows = task.text.batch(KEY, "train")
        h = jax.vmap(lambda window: hidden_states(cell, params, window[:-1]))(windows)
        log_probs = jax.nn.log_softmax(h @ params["W_out"] + params["b_out"][None, None])
        right = jax.nn.one_hot(windows[:, 1:], task.text.vocabulary_size)
        return task.loss(params, KEY), -jnp.mean(jnp.sum(log_probs * right, axis=-1))

    loss, by_equinox = both_losses(task)
    np.testing.assert_allclose(loss, by_equinox, rtol=1e-6)


def test_transformer_sees_the_past_and_not_the_future():
    task = transformer.family(width=8, num_layers=2, init_std=0.5, **SMALL)(KEY)
    logits = eqx.filter_jit(lambda ids: task.logits(task.init(KEY), ids))
    before, after = (np.asarray(logits(jnp.array([0, 1, third, 3, 4]))) for third in (2, 30))
    np.testing.assert_array_equal(before[:2], after[:2])
    assert (np.abs(before[2:] - after[2:]).max(axis=1) > 1e-3).all()


def test_transformer_starts_as_gpt2_does():
    task = transformer.family(width=64, num_layers=2, **SMALL)(KEY)
    params = task.init(KEY)
    layer = params["layers"][1]
    for weights, std in ((params["embedding"], 0.02), (layer["up"]["w"], 0.02), (layer["down"]["w"], 0.01)):
        assert np.std(weights) == pytest.approx(std, rel=4 / np.sqrt(2 * weights.size))
    for zeros in (layer["up"]["b"], layer["mlp_norm"]["gain"], params["norm"]["b"]):
        np.testing.assert_array_equal(zeros, 0)
    assert {len(params["layers"]), len(params["embedding"])} == {2, task.text.vocabulary_size}


def test_gain_of_the_layer_norm_counts_from_one():
    x = jnp.array([[1.0, 3.0]])
    layer = {"gain": jnp.array([0.0, 1.0]), "b": jnp.array([0.0, 0.5])}
    np.testing.assert_allclose(transformer._layer_norm(layer, x), [[-1, 2.5]], rtol=1e-4)


@pytest.mark.parametrize("family", [char_rnn.family, transformer.family])
def test_scores_of_a_model_that_knows_nothing_are_those_of_a_fair_die(family):
    task = family(**SMALL)(KEY)
    params = jax.tree.map(jnp.zeros_like, task.init(KEY))
    scores = eqx.filter_jit(task.metrics)(params, KEY)
    assert scores["loss"] == pytest.approx(np.log(task.text.vocabulary_size), rel=1e-5)
    assert scores["bits_per_character"] == pytest.approx(np.log2(task.text.vocabulary_size), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: char_rnn.family(cell="rnn"), r"No cell named 'rnn'\. Cells: gru, lstm\."),
        (lambda: transformer.family(width=9), r"`num_heads` must divide `width`, got num_heads=2 and width=9\."),
        (
            lambda: char_rnn.family(length=10**6),
            r"less than the test split of 'persuasion', of 21552 characters; got 1000000",
        ),
    ],
)
def test_impossible_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
