"""The user's own text: data_utils/text_files.py."""

import random
import shutil

import pytest

from data_utils import load_corpus, prepare
from tests.corpus_files import all_lines, words, write


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


@pytest.mark.parametrize("workdir", ["", "runs/text"])
def test_a_workdir_in_the_folder_of_the_text_is_no_text(tmp_path, workdir):
    """Or else a run would find another text when it is started again."""
    write(tmp_path / "a.txt", "a\n" * 30)
    write(tmp_path / "flags.txt" if workdir else tmp_path / "b.txt", "b\n")
    before = load_corpus("text", tmp_path)
    run = tmp_path / workdir
    prepare(before, run / "data")
    write(run / "config.json", "{}")
    if workdir:
        write(run / "flags.txt", "--seed=1\n")
    write(run / "sample.txt", "a a\n")
    after = load_corpus("text", tmp_path)
    assert after.sources == before.sources
    assert (after.fingerprint(), after.notes) == (before.fingerprint(), ())


def test_a_workdir_among_the_files_of_a_glob_is_no_text(tmp_path):
    write(tmp_path / "a.txt", "a\n" * 30)
    before = load_corpus("text", f"{tmp_path}/**/*.txt")
    prepare(before, tmp_path / "run" / "data")
    write(tmp_path / "run" / "config.json", "{}")
    write(tmp_path / "run" / "flags.txt", "--seed=1\n")
    after = load_corpus("text", f"{tmp_path}/**/*.txt")
    assert after.fingerprint() == before.fingerprint()


def test_files_that_have_names_of_a_runs_are_text(tmp_path):
    for folder in ("x", "x/data"):
        write(tmp_path / folder / "sample.txt", "a\n" * 9)
        write(tmp_path / folder / "vocabulary.txt", "b\n" * 9)
    write(tmp_path / "x/data/meta.json", '{"author": "x"}')
    lines = all_lines(load_corpus("text", tmp_path))
    assert sum(map(len, lines.values())) == 36


def test_files_that_have_names_of_a_runs_stay_text_where_it_is_prepared(tmp_path):
    """A run would not begin there."""
    write(tmp_path / "sample.txt", "a\n" * 9)
    write(tmp_path / "flags.txt", "b\n" * 9)
    before = load_corpus("text", tmp_path)
    prepare(before, tmp_path / "data")
    assert load_corpus("text", tmp_path).fingerprint() == before.fingerprint()
    prepare(load_corpus("text", tmp_path), tmp_path / "data")


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


@pytest.mark.parametrize("names", [("x.txt",), ("train.txt",), ("train.txt", "valid.txt")])
def test_bytes_of_any_text_are_split_where_they_are_asked_for(tmp_path, names):
    data = b"na\xefve\r\n\xa0 \xff\n\n" * 50
    for name in names:
        write(tmp_path / "text" / name, data)
    path = tmp_path / "text" if len(names) > 1 else tmp_path / "text" / names[0]
    with pytest.raises(ValueError, match=r"Text must be UTF-8\. .*--vocabulary=byte, which reads"):
        load_corpus("text", path)
    prepared = prepare(load_corpus("text", path, any_bytes=True), tmp_path / "p", vocabulary="byte")
    found = [prepared.vocabulary.decode_bytes(array) for array in prepared.arrays.values()]
    assert b"".join(found) == data * len(names)
    assert prepared.splits == ("train", "valid", "test")[: 2 if len(names) > 1 else 3]


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
