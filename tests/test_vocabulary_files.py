"""The vocabulary beside a checkpoint, in each of its formats; see golden/README.md."""

import json

import pytest

from tests.golden_files import unpack
from transformer_xl.pretrained.vocabulary_files import load_tokens


@pytest.fixture
def files(tmp_path):
    """What HuggingFace's tokenizer saved, and the tokens."""
    unpack("huggingface_vocabulary", tmp_path / "saved")
    return tmp_path / "saved", (tmp_path / "saved" / "vocab.txt").read_text("utf-8").split("\n")[
        :-1
    ]


@pytest.mark.parametrize(
    ("saved", "name"),
    [
        ("vocab.txt", "vocab.txt"),
        ("vocab.pkl", "vocab.pkl"),
        ("vocab.bin", "vocab.bin"),
        ("vocab_zip.bin", "vocab.bin"),
    ],
)
def test_what_the_tokenizer_saved(files, saved, name, tmp_path):
    directory, tokens = files
    (tmp_path / name).write_bytes((directory / saved).read_bytes())
    assert len(tokens) == 53
    assert "Ünïcode" in tokens
    assert load_tokens(str(tmp_path), 53) == tokens


@pytest.mark.parametrize(
    "content",
    [
        ["<eos>", "b", "a"],
        {"a": 2, "<eos>": 0, "b": 1},
        {"idx2sym": ["<eos>", "b", "a"], "other": 1},
        {"sym2idx": {"a": 2, "<eos>": 0, "b": 1}},
    ],
)
def test_json(content, tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps(content))
    assert load_tokens(str(tmp_path), 3) == ["<eos>", "b", "a"]


def test_the_first_of_several_is_read(tmp_path):
    (tmp_path / "vocab.txt").write_text("c\n")
    (tmp_path / "vocab.pkl").write_bytes(b"")
    assert load_tokens(str(tmp_path), 1) == ["c"]


def test_none(tmp_path):
    assert load_tokens(str(tmp_path), 1) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", b"a\nb\n", "each of the model's 3 ids. Received: 2 tokens"),
        ("vocab.txt", b"a\nb\na\n", "a token twice"),
        ("vocab.txt", b"a\n\nc\n", "line 2 is empty"),
        ("vocab.txt", b"a\n\xff\nc\n", "in UTF-8"),
        ("vocab.json", b"{", "is not JSON"),
        ("vocab.json", b'{"a": 0, "b": 1, "c": 3}', "the ids 0, 1, 2"),
        ("vocab.json", b'{"a": 0, "b": 1, "c": "2"}', "the ids 0, 1, 2"),
        ("vocab.json", b'["a", 1, "c"]', "no list of tokens"),
        ("vocab.json", b'"abc"', "no list of tokens"),
        ("vocab.json", b"3", "no list of tokens"),
        ("vocab.pkl", b"\x80\x04", "damaged, cut short"),
        ("vocab.bin", b"PK\x03\x04", "damaged, cut short"),
    ],
)
def test_files_that_do_not_fit(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_tokens(str(tmp_path), 3)
    assert name in str(caught.value)
