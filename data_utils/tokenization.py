"""How a line of text becomes tokens, and tokens become readable text again.

A rule is known by its name, which the vocabulary file stores, so that a prompt is cut the way the
corpus was:

- `whitespace`: the text comes tokenized, as WikiText does; every line counts, also an empty one.
- `words`: ordinary prose; words (with inner apostrophes) and single punctuation marks, case kept.
  Empty lines carry no token and are dropped.
- `whitespace-lower` and `words-lower`: the same after lower-casing (`str.lower`).

No token of either rule contains white space, and no character but white space is ever dropped.
"""

import re
from collections.abc import Callable, Iterable

EOS = "<eos>"
UNK = "<unk>"

_LOWER = "-lower"
RULES = ("whitespace", "words", f"whitespace{_LOWER}", f"words{_LOWER}")

# Text that was cut to a vocabulary before keeps its `<unk>` in one piece. (Words stand first in the
# pattern because they are the commonest: it saves a fifth of the time.)
_WORDS = re.compile(r"\w+(?:['’]\w+)*|<unk>|[^\w\s]")

_GLUED_TO_THE_LEFT = frozenset(",.;:!?)]}%'’”…-–—/")
_GLUED_TO_THE_RIGHT = frozenset("([{$£#“‘-–—/")


def check_rule(rule: str) -> str:
    """Returns `rule`. Raises ValueError unless it is one of `RULES`."""
    if rule not in RULES:
        raise ValueError(f"A tokenization is one of {', '.join(RULES)}. Received: {rule!r}.")
    return rule


def lowercase_rule(rule: str) -> str:
    """The rule that does the same as `rule`, after lower-casing."""
    return check_rule(rule).removesuffix(_LOWER) + _LOWER


def plain_rule(rule: str) -> str:
    """The rule without lower-casing: `whitespace` or `words`."""
    return check_rule(rule).removesuffix(_LOWER)


def is_lowercase(rule: str) -> bool:
    """Whether a rule lower-cases."""
    return check_rule(rule).endswith(_LOWER)


def line_tokenizer(rule: str) -> Callable[[str], list[str]]:
    """The function that cuts one line (without its end) into tokens.

    `line_tokenizer("words")("It's 1,000.")` is `["It's", "1", ",", "000", "."]`.
    """
    tokenize = str.split if plain_rule(rule) == "whitespace" else _WORDS.findall
    return (lambda line: tokenize(line.lower())) if is_lowercase(rule) else tokenize


def keeps_empty_lines(rule: str) -> bool:
    """Whether a line without tokens still counts as a line (and so has an `<eos>`)."""
    return plain_rule(rule) == "whitespace"


def text_lines(text: str) -> list[str]:
    """The lines of a string by universal newlines; the last one has no end, and may be empty.

    Not `str.splitlines`, which also splits at U+2028, form feeds and others that stand inside a
    line of a corpus.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.split("\n")


def tokenize_text(text: str, rule: str) -> list[str]:
    """The tokens of a text of any number of lines, with `<eos>` where a line ends.

    The last line has no `<eos>` unless the text ends in a line end.
    """
    tokenize, keep_empty = line_tokenizer(rule), keeps_empty_lines(rule)
    *ended, last = text_lines(text)
    tokens = []
    for line in ended:
        line_tokens = tokenize(line)
        if line_tokens or keep_empty:
            tokens += line_tokens
            tokens.append(EOS)
    return tokens + tokenize(last)


def join_tokens(tokens: Iterable[str], rule: str) -> str:
    """A readable text: `<eos>` is a line end, and `words` have their punctuation attached.

    Tokenizing the result gives the same tokens again.
    """
    join_line = " ".join if plain_rule(rule) == "whitespace" else _join_words
    lines: list[list[str]] = [[]]
    for token in tokens:
        if token == EOS:
            lines.append([])
        else:
            lines[-1].append(token)
    return "\n".join(map(join_line, lines))


def _join_words(tokens: list[str]) -> str:
    pieces = []
    quote_is_open = False
    glue_next = True  # Nothing stands before the first token.
    for index, token in enumerate(tokens):
        glue = glue_next or token in _GLUED_TO_THE_LEFT or _continues_number(tokens, index)
        glue_next = token in _GLUED_TO_THE_RIGHT
        if token == '"':
            # The straight quotation mark does not say on which side it belongs: take turns.
            glue = glue or quote_is_open
            glue_next = quote_is_open = not quote_is_open
        pieces.append(token if glue else " " + token)
    return "".join(pieces)


def _continues_number(tokens: list[str], index: int) -> bool:
    """Whether `tokens[index]` goes on with a number: the 30 of 10:30, the 000 of 1,000."""
    if index < 2 or tokens[index - 1] not in (",", ".", ":"):
        return False
    before, after = tokens[index - 2], tokens[index]
    if not (before.isdecimal() and after.isdecimal()):
        return False
    return tokens[index - 1] != "," or (len(before) <= 3 and len(after) == 3)
