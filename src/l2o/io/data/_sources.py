"""Where each data set comes from, and on what terms. A new set is a new entry in `SOURCES`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from l2o.io.data._formats import DataSet, read_cifar10_folder, read_idx_folder


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set's terms, and the places it can be had from.

    Args:
        kind: "images", "table" or "text".
        packaged: path of its npz or txt file within this package, for a set that ships with it.
        npz_names: names of its npz file in `$L2O_DATA`, where they are not just `NAME.npz`.
        url: the publisher's folder, ending in a slash.
        files: the files to download from `url`, each with its checksum as pooch writes it.
        system_folder: where a system package puts the same files.
        parse: reads a folder of these files.
        hint: a last line for the error that says the data are missing.
    """

    about: str
    homepage: str
    licence: str
    citation: str
    kind: str = "images"
    packaged: str | None = None
    npz_names: tuple[str, ...] = ()
    url: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    system_folder: Path | None = None
    parse: Callable[[Path], DataSet] = read_idx_folder
    hint: str = ""


_MNIST_CITATION = (
    "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document recognition. "
    "Proceedings of the IEEE 86(11), 1998."
)
_UCI_LICENCE = "CC BY 4.0, from the UCI Machine Learning Repository; see samples/LICENSE-tables.txt."

SOURCES = {
    "mnist": Source(
        about="Handwritten digits: 60,000 training and 10,000 test images, 28 x 28, grey, 10 classes.",
        homepage="http://yann.lecun.com/exdb/mnist/",
        licence="CC BY-SA 3.0, copyright Yann LeCun and Corinna Cortes.",
        citation=_MNIST_CITATION,
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        files={
            "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
        },
        hint="A sample of 10,000 of its images ships with l2o: load('mnist_sample').",
    ),
    "fashion_mnist": Source(
        about="Articles of clothing: 60,000 training and 10,000 test images, 28 x 28, grey, 10 classes.",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT, copyright Zalando SE.",
        citation=(
            "H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST: a novel image dataset for benchmarking machine "
            "learning algorithms. arXiv:1708.07747, 2017."
        ),
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        files={
            "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
        },
        system_folder=Path("/usr/share/datasets/fashion-mnist"),
        hint="On Debian and Ubuntu the package dataset-fashion-mnist holds it too.",
    ),
    "cifar10": Source(
        about="Photographs of things: 50,000 training and 10,000 test images, 32 x 32, RGB, 10 classes.",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="None stated; the publisher asks for the citation. Do not redistribute.",
        citation="A. Krizhevsky: Learning multiple layers of features from tiny images. Tech. report, 2009.",
        url="https://www.cs.toronto.edu/~kriz/",
        files={"cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530"},
        parse=read_cifar10_folder,
    ),
    "smile": Source(
        about="Grey faces: 9,475 not smiling (0) and 3,690 smiling (1). A fixed fifth is the test split.",
        homepage="https://github.com/hromi/SMILEsmileD",
        licence="None stated. Do not redistribute.",
        citation=(
            "D. Hromada, C. Tijus: Semi-supervised haartraining of a fast & frugal open source zygomatic "
            "smile detector. 2010."
        ),
        npz_names=("smile.npz", "smile_32.npz"),
        hint=(
            "There is no archive to download. Clone https://github.com/hromi/SMILEsmileD, read the images of "
            "SMILEs/negatives (y = 0) and SMILEs/positives (y = 1), resize them to 32 x 32, and save them by "
            "np.savez('smile.npz', x=x, y=y); load('smile') makes the split, from the order in the file."
        ),
    ),
    "mnist_sample": Source(
        about="A sample of MNIST within the package: 800 training and 200 test images of each digit.",
        homepage="http://yann.lecun.com/exdb/mnist/",
        licence="CC BY-SA 3.0, copyright Yann LeCun and Corinna Cortes; see samples/LICENSE-mnist.txt.",
        citation=_MNIST_CITATION,
        packaged="samples/mnist.npz",
    ),
    "breast_cancer": Source(
        about="30 measurements of cell nuclei, 569 tumours: malignant (0) or benign (1). A fixed fifth is the test split.",
        homepage="https://archive.ics.uci.edu/dataset/17/breast+cancer+wisconsin+diagnostic",
        licence=_UCI_LICENCE,
        citation=(
            "W. Wolberg, O. Mangasarian, N. Street, W. Street: Breast Cancer Wisconsin (Diagnostic) [Dataset]. UCI "
            "Machine Learning Repository, 1993. doi:10.24432/C5DW2B"
        ),
        kind="table",
        packaged="samples/breast_cancer.npz",
    ),
    "wine": Source(
        about="13 chemical measurements of 178 wines from 3 growers. A fixed fifth is the test split.",
        homepage="https://archive.ics.uci.edu/dataset/109/wine",
        licence=_UCI_LICENCE,
        citation=(
            "S. Aeberhard, M. Forina: Wine [Dataset]. UCI Machine Learning Repository, 1992. doi:10.24432/C5PC7J"
        ),
        kind="table",
        packaged="samples/wine.npz",
    ),
    "digits": Source(
        about="1,797 handwritten digits as a table: 8 x 8 counts of 0 to 16, 10 classes. A fixed fifth is the test split.",
        homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        licence=_UCI_LICENCE,
        citation=(
            "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits [Dataset]. UCI Machine Learning "
            "Repository, 1998. doi:10.24432/C50P49"
        ),
        kind="table",
        packaged="samples/digits.npz",
    ),
    "persuasion": Source(
        about="The first volume of Jane Austen's novel: 215,526 characters. The last tenth is the test split.",
        homepage="https://www.gutenberg.org/ebooks/105",
        licence="In the public domain; see samples/LICENSE-persuasion.txt.",
        citation="J. Austen: Persuasion. John Murray, London, 1818.",
        kind="text",
        packaged="samples/persuasion.txt",
    ),
}
