"""The data sets that there are: terms, checksums, and the published values."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_files import images, save_npz

import l2o
from l2o.io.data._formats import read_npz
from l2o.io.data._sources import SOURCES

pytestmark = pytest.mark.usefixtures("places")


@pytest.mark.parametrize("name", l2o.data.names())
def test_every_set_has_a_licence_and_a_citation(name):
    lines = l2o.data.describe(name).splitlines()
    assert [line.split(": ")[0] for line in lines] == [name, "Homepage", "Licence", "Cite"]
    assert all(len(line.split(": ", 1)[1]) > 15 for line in lines)


@pytest.mark.parametrize("name", l2o.data.names())
def test_published_files_have_checksums_of_full_length(name):
    for checksum in SOURCES[name].files.values():
        assert re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", checksum)


# ---- the sample in the package


def test_sample_is_balanced_and_real():
    data = l2o.data.load("mnist_sample")
    assert data.x_train.shape == (8000, 28, 28, 1)
    assert data.x_test.shape == (2000, 28, 28, 1)
    assert np.bincount(data.y_train).tolist() == [800] * 10
    assert np.bincount(data.y_test).tolist() == [200] * 10
    assert len(np.unique(np.concatenate(data[::2]), axis=0)) == 10_000
    # MNIST's published mean and standard deviation of a pixel, 0.1307 and 0.3081.
    assert data.x_train.mean() / 255 == pytest.approx(0.1307, abs=0.003)
    assert data.x_train.std() / 255 == pytest.approx(0.3081, abs=0.003)
    # Labels belong to their images: the nearest class mean is right as often, 82%, as on the whole of MNIST.
    x_train, x_test = (x.reshape(len(x), -1) / 255.0 for x in (data.x_train, data.x_test))
    means = np.stack([x_train[data.y_train == digit].mean(axis=0) for digit in range(10)])
    distances = (means**2).sum(axis=1) - 2 * x_test @ means.T
    assert (distances.argmin(axis=1) == data.y_test).mean() == pytest.approx(0.82, abs=0.03)


def test_sample_is_small_and_carries_its_licence():
    samples = Path(l2o.data.__file__).parent / "samples"
    assert (samples / "mnist.npz").stat().st_size < 2_000_000
    notice = (samples / "LICENSE-mnist.txt").read_text()
    for words in ("Yann LeCun and Corinna Cortes", "CC BY-SA 3.0", "creativecommons.org", "Changes made"):
        assert words in notice


def test_importing_data_is_light():
    code = (
        f"import sys; sys.path.insert(0, {str(Path(l2o.__file__).parents[1])!r})\n"
        "import l2o; l2o.data.load('mnist_sample')\n"
        "assert not {'jax', 'pooch', 'requests'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- tables


@pytest.mark.parametrize(
    ("name", "num_train", "num_test", "features"),
    [("breast_cancer", [170, 286], [42, 71], 30), ("wine", [48, 57, 39], [11, 14, 9], 13)],
)
def test_tables_hold_what_uci_says(name, num_train, num_test, features):
    """UCI: 212 malignant and 357 benign tumours of 30 measurements; 59, 71 and 48 wines of 13."""
    data = l2o.data.load(name)
    assert {data.x_train.dtype, data.x_test.dtype} == {np.dtype(np.float32)}
    assert {data.x_train.shape[1], data.x_test.shape[1]} == {features}
    assert np.bincount(data.y_train).tolist() == num_train
    assert np.bincount(data.y_test).tolist() == num_test


def test_tables_hold_the_published_values():
    """Ranges that UCI's descriptions list: radius 6.981 to 28.11, proline 278 to 1680, pixels 0 to 16."""
    cancer, wine, digits = (l2o.data.load(name) for name in ("breast_cancer", "wine", "digits"))
    for data, column, low, high in ((cancer, 0, 6.981, 28.11), (wine, 12, 278, 1680), (digits, slice(None), 0, 16)):
        values = np.concatenate([data.x_train, data.x_test])[:, column]
        assert [values.min(), values.max()] == pytest.approx([low, high])
    assert len(digits.y_train) + len(digits.y_test) == 1797
    # Labels belong to their rows: malignant nuclei (0) are larger, and the nearest class mean tells digits apart.
    assert cancer.x_train[cancer.y_train == 0, 0].mean() > 1.3 * cancer.x_train[cancer.y_train == 1, 0].mean()
    means = np.stack([digits.x_train[digits.y_train == digit].mean(axis=0) for digit in range(10)])
    nearest = ((digits.x_test[:, None] - means[None]) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == digits.y_test).mean() > 0.85


def test_tables_and_text_are_small_and_carry_their_terms():
    samples = Path(l2o.data.__file__).parent / "samples"
    notice = (samples / "LICENSE-tables.txt").read_text()
    for name in l2o.data.names("table"):
        assert f"{name}.npz: " in notice
        assert (samples / f"{name}.npz").stat().st_size < 100_000
        doi = re.search(r"10\.24432/\w+", SOURCES[name].citation).group()
        assert f"https://doi.org/{doi}" in notice
    for words in ("CC BY 4.0", "creativecommons.org", "Changes made"):
        assert words in notice
    assert "public domain" in (samples / "LICENSE-persuasion.txt").read_text()


def test_a_table_is_no_images_and_the_other_way_round(places):
    rows = {"x_train": np.zeros((4, 3)), "y_train": np.arange(4), "x_test": np.ones((2, 3)), "y_test": np.arange(2)}
    path = save_npz(places / "rows.npz", **rows)
    data = read_npz(path, table=True)
    assert (data.x_test.dtype, data.y_test.dtype, data.x_train.shape) == (np.float32, np.int32, (4, 3))
    with pytest.raises(ValueError, match="expected uint8 images"):
        read_npz(path)
    with pytest.raises(ValueError, match=r"expected a table of numbers \[n, features\].* got uint8 \[6, 4, 5\]"):
        read_npz(save_npz(places / "images.npz", **images(0)), table=True)


# ---- texts


def test_text_is_what_jane_austen_wrote():
    train, test, vocabulary = l2o.data.load_text("persuasion")
    text = "".join(vocabulary[i] for i in np.concatenate([train, test]))
    assert text.startswith("Persuasion\n")
    assert "Sir Walter Elliot, of Kellynch Hall, in Somersetshire, was a man who," in text
    assert [len(text), len(test), len(vocabulary)] == [215_526, 21_552, 75]
    assert list(vocabulary) == sorted(set(text))
    assert train.dtype == test.dtype == np.int32


def test_a_text_of_your_own(places):
    (places / "user").mkdir()
    path = places / "user" / "mine.txt"
    path.write_text("Straße\nbanana", encoding="utf-8")
    train, test, vocabulary = l2o.data.load_text("mine")
    assert "".join(vocabulary[i] for i in train) == "Straße\nbanan"
    assert "".join(vocabulary[i] for i in test) == "a"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=re.escape(f"Cannot read {path} (UnicodeDecodeError")):
        l2o.data.load_text("mine")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="expected a text, found 0 characters"):
        l2o.data.load_text("mine")


def test_missing_text_says_where_it_looked_and_what_there_is(places, monkeypatch):
    path = places / "user" / "nope.txt"
    expected = (
        rf"No text named 'nope' \(no file {re.escape(str(path))}\)\. Texts: persuasion; or set L2O_DATA .*nope\.txt"
    )
    with pytest.raises(ValueError, match=expected):
        l2o.data.load_text("nope")
    monkeypatch.delenv("L2O_DATA")
    with pytest.raises(ValueError, match=r"No text named 'mnist'\. Texts: persuasion"):
        l2o.data.load_text("mnist")


def test_a_text_is_no_data_set():
    with pytest.raises(ValueError, match=r"'persuasion' is a text\. Load it by `load_text\('persuasion'\)`\."):
        l2o.data.load("persuasion")


def test_names_by_kind():
    assert l2o.data.names("table") == ["breast_cancer", "wine", "digits"]
    assert l2o.data.names("text") == ["persuasion"]
    assert [*l2o.data.names("images"), *l2o.data.names("table"), *l2o.data.names("text")] == l2o.data.names()
