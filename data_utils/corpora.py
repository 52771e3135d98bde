"""The registry of corpora: where each comes from, licence, splits, unit, published counts."""

import dataclasses

from .downloads import Download
from .found_corpus import ExpectedCounts
from .vocabularies import KINDS_OF_LINES
from .whole_files import LM1B_FOLDER

TFDS = "tfds:"
_GITHUB = "https://raw.githubusercontent.com"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a corpus.

    Attributes:
        unit: what its figures are about: "word" or "character".
        vocabulary: its own kind, one of `VOCABULARY_KINDS`.
        tokenization: how its lines become words, see `tokenization.RULES`.
        min_count: of a word in its vocabulary.
        documents: see `documents.DOCUMENT_KINDS`.
        licence: under which the text may be used.
        downloads: the files it is published in; empty where there is nothing to download.
        expected: published counts, or None.
        alternatives: other files with the same text, for when those cannot be had.
        splits: their names.
    """

    unit: str
    vocabulary: str
    tokenization: str
    min_count: int
    documents: str
    licence: str
    downloads: tuple[Download, ...] = ()
    expected: ExpectedCounts | None = None
    alternatives: tuple[Download, ...] = ()
    splits: tuple[str, ...] = ("train", "valid", "test")


def _wikitext(name: str, sha256: str, num_bytes: int) -> Download:
    # The address of the corpus' first author. The one in most scripts, Amazon's, has answered 403
    # since 2024.
    return Download(f"{name}.zip", (f"https://wikitext.smerity.com/{name}.zip",), sha256, num_bytes)


def _pytorch_example(split: str, sha256: str, num_bytes: int) -> Download:
    place = "pytorch/examples/main/word_language_model/data/wikitext-2"
    return Download(f"{split}.txt", (f"{_GITHUB}/{place}/{split}.txt",), sha256, num_bytes)


def _ptb(split: str, sha256: str, num_bytes: int) -> Download:
    file = f"ptb.{split}.txt"
    return Download(
        file,
        tuple(f"{_GITHUB}/{user}/lstm/master/data/{file}" for user in ("wojzaremba", "tomsercu")),
        sha256,
        num_bytes,
    )


def _hutter(name: str, sha256: str, num_bytes: int) -> Download:
    hosts = ("http://mattmahoney.net/dc", "https://data.deepai.org")
    return Download(f"{name}.zip", tuple(f"{host}/{name}.zip" for host in hosts), sha256, num_bytes)


def _million_bytes(train: int, valid: int, test: int, types: int) -> ExpectedCounts:
    tokens = {"train": train, "valid": valid, "test": test}
    return ExpectedCounts({split: n * 1_000_000 for split, n in tokens.items()}, types)


REGISTRY = {
    "enwik8": Entry(
        "character",
        "byte",
        "whitespace",
        1,
        "files",
        "CC BY-SA 3.0 and GFDL (Wikipedia)",
        (
            _hutter(
                "enwik8",
                "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
                36_445_475,
            ),
        ),
        _million_bytes(90, 5, 5, 256),
    ),
    "lm1b": Entry(
        "word",
        "word",
        "whitespace",
        3,
        "lines",
        "Apache 2.0 (Chelba et al., 2013; news of WMT 2011)",
        (
            Download(
                f"{LM1B_FOLDER}.tar.gz",
                (f"http://www.statmt.org/lm-benchmark/{LM1B_FOLDER}.tar.gz",),
                "01ba60381110baf7f189dfd2b8374de371e8c9a340835793f190bdae9e90a34e",
                1_792_209_805,
            ),
        ),
        ExpectedCounts({}, 793_470),
    ),
    "ptb": Entry(
        "word",
        "word",
        "whitespace",
        1,
        "files",
        "of the Linguistic Data Consortium; free for research (Mikolov's version)",
        (
            _ptb(
                "train",
                "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
                5_101_618,
            ),
            _ptb(
                "valid",
                "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
                399_782,
            ),
            _ptb(
                "test",
                "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
                449_945,
            ),
        ),
        ExpectedCounts({"train": 929_589, "valid": 73_760, "test": 82_430}, 10_000),
    ),
    "sotu": Entry(
        "word",
        "word",
        "words",
        3,
        "files",
        "public domain",
        expected=ExpectedCounts({"train": 2_012_955, "valid": 106_207, "test": 115_908}, 17_268),
    ),
    "text": Entry("word", "word", "words", 3, "files", "yours"),
    "text8": Entry(
        "character",
        "character",
        "whitespace",
        1,
        "files",
        "CC BY-SA 3.0 and GFDL (Wikipedia)",
        (
            _hutter(
                "text8",
                "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
                31_344_016,
            ),
        ),
        _million_bytes(90, 5, 5, 27),
    ),
    "tinyshakespeare": Entry(
        "character",
        "character",
        "whitespace",
        1,
        "files",
        "public domain",
        (
            Download(
                "input.txt",
                (f"{_GITHUB}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",),
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                1_115_394,
            ),
        ),
        ExpectedCounts({"train": 1_003_854, "valid": 55_770, "test": 55_770}, 65),
    ),
    "wikitext103": Entry(
        "word",
        "word",
        "whitespace",
        1,
        "headings",
        "CC BY-SA 3.0",
        (
            _wikitext(
                "wikitext-103-v1",
                "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
                190_229_076,
            ),
        ),
        ExpectedCounts({"train": 103_227_021, "valid": 217_646, "test": 245_569}, 267_735),
    ),
    "wikitext2": Entry(
        "word",
        "word",
        "whitespace",
        1,
        "headings",
        "CC BY-SA 3.0",
        (
            _wikitext(
                "wikitext-2-v1",
                "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
                4_475_746,
            ),
        ),
        ExpectedCounts({"train": 2_088_628, "valid": 217_646, "test": 245_569}, 33_278),
        (
            _pytorch_example(
                "train",
                "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
                10_797_148,
            ),
            _pytorch_example(
                "valid",
                "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
                1_121_681,
            ),
            _pytorch_example(
                "test",
                "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
                1_256_449,
            ),
        ),
    ),
}
CORPUS_NAMES = tuple(REGISTRY)
TFDS_ENTRY = Entry("word", "word", "words", 3, "files", "of the dataset")


def is_of_sentences(name: str, kind: str | None = None) -> bool:
    """Whether a corpus is lines in no order, which training shuffles: known before it is read.

    Args:
        name: of a corpus.
        kind: of the vocabulary; None for the corpus' own.
    """
    entry = REGISTRY.get(name, TFDS_ENTRY)
    return entry.documents == "lines" and (kind or entry.vocabulary) in KINDS_OF_LINES


def own_min_count(name: str, kind: str) -> int | None:
    """How rare a token may be in the vocabulary of a corpus, where nothing else is asked for.

    Args:
        name: of a corpus.
        kind: of the vocabulary.

    Returns:
        None for a kind that has no such limit.
    """
    own = {"word": REGISTRY.get(name, TFDS_ENTRY).min_count, "character": 1}
    return own.get(kind)
