"""Text of the user's own in compressed files, and in the files that a glob stands for."""

import gzip
import lzma

import pyarrow
import pytest

from data_utils import load_corpus, prepare

LINES = [f"line {i} of an almanac , the {i % 7} th" for i in range(200)]
TEXT = ("\n".join(LINES) + "\n").encode()


def zstandard(data: bytes) -> bytes:
    return pyarrow.compress(data, codec="zstd", asbytes=True)


PACK = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard}


def texts(corpus):
    return [text for split in corpus.splits for text in corpus.texts(split)]


@pytest.mark.parametrize("suffix", PACK)
def test_a_compressed_file_is_prepared_as_the_text_in_it(suffix, tmp_path):
    plain, packed = tmp_path / "almanac.txt", tmp_path / f"almanac.txt{suffix}"
    plain.write_bytes(TEXT)
    packed.write_bytes(PACK[suffix](TEXT))
    assert texts(load_corpus("text", packed)) == LINES
    one = prepare(load_corpus("text", plain), tmp_path / "of_plain")
    other = prepare(load_corpus("text", packed), tmp_path / "of_packed")
    assert other.vocabulary.tokens == one.vocabulary.tokens
    for split in one.splits:
        assert other.arrays[split].tolist() == one.arrays[split].tolist()


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("damage", ["cut", "not compressed"])
def test_a_damaged_file_is_one_clear_error(suffix, damage, tmp_path):
    packed = tmp_path / f"almanac.txt{suffix}"
    data = PACK[suffix](TEXT)
    packed.write_bytes(data[: len(data) // 2] if damage == "cut" else TEXT)
    with pytest.raises(ValueError, match="almanac.txt"):
        prepare(load_corpus("text", packed), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_a_glob_stands_for_its_files_in_their_order(tmp_path):
    for i in range(4):
        (tmp_path / f"{'ba'[i % 2]}{i}.txt").write_text("\n".join(LINES[50 * i : 50 * i + 50]))
    (tmp_path / "other.md").write_text("not this one")
    corpus = load_corpus("text", tmp_path / "*.txt")
    assert texts(corpus) == LINES[50:100] + LINES[150:] + LINES[:50] + LINES[100:150]


def test_a_glob_without_files_is_an_error(tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=r"\*\.txt"):
        load_corpus("text", tmp_path / "*.txt")
