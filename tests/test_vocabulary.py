"""Tokens, ids and text again: data_utils/{tokenization,vocabulary}.py."""

import collections
import random
import re

import numpy as np
import pytest

from data_utils import WordVocabulary
from data_utils.tokenization import RULES, join_tokens, line_tokenizer, tokenize_text

COUNTS = {"the": 9, "b": 4, "a": 4, "rare": 1, "seldom": 2, "<eos>": 5}
ALPHABET = (
    list("abAB01_.,:;!?()[]{}<>\"'’‘“”-–—/…$£#%&*+=@^`~|\\")
    + [
        "é",
        "e\u0301",
        "ß",
        "中",
        "\u05d0",
        "\u0663",
        "½",
        "😀",
        "👩\u200d👧",
        "\ufeff",
        "\0",
        "\ud7ff",
    ]
    + ["<unk>", "<eos>", "'s", "--", "...", "word", "1,000", "U.S."]
)
WHITE = [" ", "  ", "\t", "\u00a0", "\u3000", "\u2028", "\x0b", "\x0c", "\x85", "\x1c"]


def random_text(generator: random.Random, ends=()) -> str:
    pieces = ALPHABET + WHITE * 2 + list(ends) * 8
    return "".join(generator.choices(pieces, k=generator.randrange(40)))


# Tokenization --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It's John’s cats' 'tis", "It's John’s cats ' ' tis"),
        ("$1,000.50 (thirty-two)", "$ 1 , 000 . 50 ( thirty - two )"),
        ("a <unk> b<unk>c <UNK>", "a <unk> b <unk> c < UNK >"),
        ("U.S. e\u0301 snake_case 😀😀", "U . S . e \u0301 snake_case 😀 😀"),
        ("that--no\u2028x\x85y", "that - - no x y"),
        ("", ""),
    ],
)
def test_words_by_hand(text, tokens):
    assert line_tokenizer("words")(text) == tokens.split()


@pytest.mark.parametrize(
    ("text", "rule", "tokens"),
    [
        ("a b\n\nc", "whitespace", ["a", "b", "<eos>", "<eos>", "c"]),
        ("a b\r\n\rc\n", "whitespace", ["a", "b", "<eos>", "<eos>", "c", "<eos>"]),
        ("a, b\n \nc", "words", ["a", ",", "b", "<eos>", "c"]),
        ("\n\na\n", "words", ["a", "<eos>"]),
        ("", "whitespace", []),
        ("\n", "whitespace", ["<eos>"]),
        ("\n", "words", []),
    ],
)
def test_text_of_several_lines(text, rule, tokens):
    assert tokenize_text(text, rule) == tokens


@pytest.mark.parametrize(
    "text",
    [
        "Mr. Speaker, it's $1,000,000.50 (or 5%); isn't it?",
        'He said: "Let us, at 10:30, begin!" and "go"—so we did.',
        "In 1890, 300 of the thirty-two [sic] States' men",
        "“Curly” and ‘single’ quotes and/or dashes–here",
        "one line\nanother line\n",
        "unfortunately <unk>, the <unk>",
    ],
)
def test_words_are_joined_as_they_were_written(text):
    assert join_tokens(tokenize_text(text, "words"), "words") == text


def test_whitespace_tokens_are_joined_by_spaces():
    tokens = ["=", "A", "=", "<eos>", "<eos>", "b", ",", "c"]
    assert join_tokens(tokens, "whitespace") == "= A =\n\nb , c"


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_dropped_and_joining_is_undone_by_tokenizing(rule):
    generator = random.Random(3)
    for _ in range(2000):
        text = random_text(generator, ends=["\n", "\r", "\r\n"])
        tokens = tokenize_text(text, rule)
        kept = "".join(tokens).replace("<eos>", "")
        if rule.endswith("-lower"):
            text = text.lower()
        assert kept == "".join(text.split()).replace("<eos>", "")
        assert all(token.split() == [token] for token in tokens)
        assert tokenize_text(join_tokens(tokens, rule), rule) == tokens, text


def test_unknown_rule():
    with pytest.raises(ValueError, match="one of whitespace, words, .*Received: 'bpe'"):
        WordVocabulary.from_counts(COUNTS, tokenization="bpe")


# Order and limits ----------------------------------------------------------------------------


def test_order_by_hand():
    vocabulary = WordVocabulary.from_counts(COUNTS)
    assert vocabulary.tokens == ("the", "<eos>", "a", "b", "seldom", "rare", "<unk>")
    assert vocabulary.counts == (9, 5, 4, 4, 2, 1, 0)
    assert (vocabulary.size, len(vocabulary)) == (7, 7)
    assert (vocabulary.eos_id, vocabulary.unk_id) == (1, 6)


def test_rare_words_and_those_beyond_the_size_are_unknown():
    vocabulary = WordVocabulary.from_counts({**COUNTS, "<unk>": 1}, min_count=2)
    assert vocabulary.tokens == ("the", "<eos>", "a", "b", "<unk>", "seldom")
    assert vocabulary.counts == (9, 5, 4, 4, 2, 2)
    vocabulary = WordVocabulary.from_counts(COUNTS, min_count=2, max_size=4)
    assert vocabulary.tokens == ("the", "<unk>", "<eos>", "a")
    assert vocabulary.counts == (9, 7, 5, 4)
    assert WordVocabulary.from_counts(COUNTS, max_size=99).size == 7
    assert WordVocabulary.from_counts({}).tokens == ("<eos>", "<unk>")


def test_order_agrees_with_a_slow_oracle():
    generator = random.Random(4)
    tokens = [t for t in ALPHABET if t not in ("<eos>", "<unk>")] + ["zz", "Ω", "\U0001f600x"]
    for _ in range(200):
        counts = {t: generator.randrange(1, 6) for t in generator.sample(tokens, 20)}
        counts["<eos>"] = generator.randrange(4)
        min_count, max_size = generator.randrange(1, 5), generator.choice([None, 3, 7, 15])
        expected = dict(counts)
        expected.setdefault("<unk>", 0)
        while True:
            words = [t for t in expected if t not in ("<eos>", "<unk>")]
            lowest = min((expected[t] for t in words), default=None)
            worst = max((t for t in words if expected[t] == lowest), default=None)
            too_many = max_size is not None and len(expected) > max_size
            if worst is None or not (expected[worst] < min_count or too_many):
                break
            expected["<unk>"] += expected.pop(worst)
        vocabulary = WordVocabulary.from_counts(counts, min_count, max_size)
        assert dict(zip(vocabulary.tokens, vocabulary.counts, strict=True)) == expected
        pairs = list(zip(vocabulary.counts, vocabulary.tokens, strict=True))
        for (n, a), (m, b) in zip(pairs, pairs[1:], strict=False):
            assert n > m or (n == m and [ord(c) for c in a] < [ord(c) for c in b])
        assert sum(vocabulary.counts) == sum(counts.values())


def test_insertion_order_does_not_matter():
    fingerprints = set()
    for seed in range(20):
        items = list(COUNTS.items())
        random.Random(seed).shuffle(items)
        fingerprints.add(WordVocabulary.from_counts(dict(items)).fingerprint())
    assert len(fingerprints) == 1
    other = WordVocabulary.from_counts({**COUNTS, "the": 10}).fingerprint()
    words = WordVocabulary.from_counts(COUNTS, tokenization="words").fingerprint()
    assert len({other, words} | fingerprints) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_count": 0}, "min_count must be at least 1. Received: 0"),
        ({"max_size": 2}, "max_size must be at least 3.*Received: 2"),
        ({"counts": {"a": -1}}, "Counts are at least 0"),
        ({"counts": {"a b": 1}}, "no white space and is not empty. Received: 'a b'"),
        ({"counts": {"": 1}}, "no white space and is not empty. Received: ''"),
        ({"counts": {"x\u2028": 1}}, "no white space"),
        ({"counts": {"\ud800": 1}}, "lone surrogate"),
    ],
)
def test_bad_counts(arguments, message):
    with pytest.raises(ValueError, match=message):
        WordVocabulary.from_counts(**{"counts": COUNTS, **arguments})


@pytest.mark.parametrize(
    ("tokens", "counts", "message"),
    [
        (["a", "<eos>", "<unk>"], [3, 2], "Received 3 tokens, 2 counts"),
        (["a", "a", "<eos>", "<unk>"], [3, 3, 2, 1], "unique. Received 'a' twice"),
        (["a", "<unk>"], [3, 2], "needs <eos> and <unk>. Received none of <eos>"),
        (["a", "<eos>"], [3, 2], "Received none of <unk>"),
        (["a", "<eos>", "<unk>"], [3, 4, 0], r"\('a', 3\) before \('<eos>', 4\): use from_counts"),
        (["b", "a", "<eos>", "<unk>"], [3, 3, 2, 1], r"\('b', 3\) before \('a', 3\)"),
        (["a", "<eos>", "<unk>"], [3, 2, -1], "at least 0. Received -1 for '<unk>'"),
    ],
)
def test_bad_order(tokens, counts, message):
    with pytest.raises(ValueError, match=message):
        WordVocabulary(tokens, counts)


# Ids -----------------------------------------------------------------------------------------


def test_encode_and_decode_by_hand():
    vocabulary = WordVocabulary.from_counts(COUNTS, min_count=2)
    ids = vocabulary.encode(["b", "the", "rare", "new", "<eos>", "<unk>"])
    assert ids.dtype == np.int32
    unk = vocabulary.unk_id
    assert ids.tolist() == [3, 0, unk, unk, 1, unk]
    assert vocabulary.decode(ids) == "b the <unk> <unk>\n<unk>"
    assert vocabulary.encode([]).shape == (0,)
    assert vocabulary.encode(iter(["a"])).tolist() == [2]
    assert vocabulary.encode_text("the\nb zzz").tolist() == [0, 1, 3, unk]
    assert vocabulary.tokenize("the\nb zzz") == ["the", "<eos>", "b", "zzz"]


def test_a_prompt_is_cut_as_the_corpus_was():
    words = WordVocabulary.from_counts({"Hi": 3, ",": 2}, tokenization="words")
    assert words.decode(words.encode_text("Hi,Hi\n\nHi")) == "Hi, Hi\nHi"
    whitespace = WordVocabulary.from_counts({"Hi": 3, ",": 2})
    assert whitespace.decode(whitespace.encode_text("Hi,Hi\n\nHi")) == "<unk>\n\nHi"


def test_bad_ids_and_tokens():
    vocabulary = WordVocabulary.from_counts(COUNTS)
    for bad in (-1, 7):
        with pytest.raises(ValueError, match=rf"in 0 to 6.*Received: {bad}\."):
            vocabulary.decode([0, bad])
    with pytest.raises(ValueError, match="Received the text 'the'.*encode_text"):
        vocabulary.encode("the")


# The file ------------------------------------------------------------------------------------


def test_file_by_hand(tmp_path):
    path = tmp_path / "vocabulary.txt"
    WordVocabulary.from_counts({"é": 3, "<eos>": 1}, tokenization="words").save(path)
    expected = "word vocabulary 1\ntokenization words\nsize 3\né\t3\n<eos>\t1\n<unk>\t0\n"
    assert path.read_bytes().decode("utf-8") == expected
    assert [p.name for p in tmp_path.iterdir()] == ["vocabulary.txt"]


@pytest.mark.parametrize("rule", RULES)
def test_file_round_trip_of_every_token_there_can_be(tmp_path, rule):
    generator = random.Random(5)
    tokenize = line_tokenizer(rule)
    counts = collections.Counter()
    for code in range(0x110000):
        # Every white space, control and format character, and a sample of the others.
        if (code < 0x3100 or code % 97 == 0) and not 0xD800 <= code < 0xE000:
            counts.update(tokenize(f"x{chr(code)}y {chr(code)}"))
    for _ in range(300):
        counts.update(tokenize(random_text(generator)))
    vocabulary = WordVocabulary.from_counts(counts, tokenization=rule)
    assert vocabulary.size > 1000
    path = tmp_path / "vocabulary.txt"
    vocabulary.save(path)
    vocabulary.save(path)  # Replaces itself.
    loaded = WordVocabulary.load(path)
    assert (loaded.tokens, loaded.counts) == (vocabulary.tokens, vocabulary.counts)
    assert (loaded.tokenization, loaded.eos_id) == (rule, vocabulary.eos_id)
    assert loaded.fingerprint() == vocabulary.fingerprint()
    assert loaded.encode(loaded.tokens).tolist() == list(range(loaded.size))


def test_saving_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "vocabulary.txt"
    WordVocabulary.from_counts(COUNTS).save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        WordVocabulary.from_counts({"other": 1}).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["vocabulary.txt"]


GOOD = "word vocabulary 1\ntokenization words\nsize 4\na\t3\n<eos>\t2\nb\t2\n<unk>\t0\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", None),
        ("word vocabulary 1", "word vocabulary 2", "first line must be 'word vocabulary 1'"),
        (GOOD, "", "first line"),
        (GOOD, "word vocabulary 1", "Lines 2 and 3"),
        ("tokenization words", "words", "Lines 2 and 3"),
        ("tokenization words", "tokenization bpe", "one of whitespace, words, .*Received: 'bpe'"),
        ("size 4", "size 5", "must have 5 tokens.*cut short"),
        ("<unk>\t0\n", "", "must have 4 tokens.*cut short"),
        ("<unk>\t0\n", "<unk>\t0", "cut short"),
        ("a\t3", "a 3", "Line 4 must be token<TAB>count. Received: 'a 3'"),
        ("b\t2", "b\t-2", "Line 6"),
        ("b\t2", "b\t2\t", "Line 6"),
        ("b\t2", "b\t2.0", "Line 6"),
        ("b\t2", "b\t²", "Line 6"),
        ("b\t2", "a\t2", "unique. Received 'a' twice"),
        ("b\t2", "b\t3", "order of falling counts"),
        ("<eos>\t2", "<sos>\t2", "Received none of <eos>"),
        ("a\t3", "\t3", "not empty"),
        ("\n", "\r\n", "first line"),
    ],
)
def test_damaged_files(tmp_path, old, new, message):
    path = tmp_path / "vocabulary.txt"
    path.write_bytes(GOOD.replace(old, new).encode("utf-8") if old else GOOD.encode("utf-8"))
    if message is None:
        assert WordVocabulary.load(path).tokens == ("a", "<eos>", "b", "<unk>")
        return
    with pytest.raises(ValueError, match=message) as raised:
        WordVocabulary.load(path)
    assert re.match(r".*vocabulary\.txt is not a sound vocabulary file: .", str(raised.value))


def test_no_file_and_not_utf8(tmp_path):
    with pytest.raises(FileNotFoundError, match="none at .*nowhere"):
        WordVocabulary.load(tmp_path / "nowhere")
    (tmp_path / "v").write_bytes(GOOD.encode("utf-8").replace(b"a\t", b"\xe4\t"))
    with pytest.raises(ValueError, match=r"v is not a sound vocabulary file.*0xe4"):
        WordVocabulary.load(tmp_path / "v")
