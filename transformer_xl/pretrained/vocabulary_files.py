"""The vocabulary beside a checkpoint: `vocab.json`, `vocab.txt`, `vocab.pkl` or `vocab.bin`."""

import json
import os
from collections.abc import Mapping, Sequence

from transformer_xl.pretrained.torch_files import load_torch_file

FILES = ("vocab.json", "vocab.txt", "vocab.pkl", "vocab.bin")


def load_tokens(directory: str, size: int) -> list[str] | None:
    """The tokens of the first of `FILES` that a directory has.

    - `vocab.json`: a list of tokens, an object from tokens to ids, or one with either as
      `idx2sym` or `sym2idx`.
    - `vocab.txt`: a token a line, in the order of ids; what follows it after white space, as a
      count, is not read.
    - `vocab.pkl`, `vocab.bin`: what HuggingFace's TransfoXLTokenizer saved, by pickle or by
      torch.save; read without running anything, see `torch_files`.

    Args:
      directory: where they are looked for.
      size: how many tokens there must be.

    Returns:
      The tokens in the order of their ids; None if there is no such file.

    Raises:
      ValueError: if the file is damaged, or does not have one token for each id.
    """
    for name in FILES:
        path = os.path.join(directory, name)
        if os.path.exists(path):
            break
    else:
        return None
    tokens = read_tokens(path)
    if len(set(tokens)) != len(tokens):
        raise ValueError(f"{path} has a token twice.")
    if len(tokens) != size:
        raise ValueError(
            f"{path} must have a token for each of the model's {size:,} ids. Received: "
            f"{len(tokens):,} tokens."
        )
    return tokens


def read_tokens(path: str) -> list[str]:
    """The tokens of one of `FILES`; raises ValueError if it is damaged."""
    return _read_lines(path) if path.endswith(".txt") else _read_object(path)


def load_tokens_beside(path: str, size: int) -> list[str] | None:
    """As `load_tokens`, from the directory that a file is in."""
    return load_tokens(os.path.dirname(path) or ".", size)


def _read_lines(path: str) -> list[str]:
    tokens = []
    try:
        with open(path, encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                words = line.split()
                if not words:
                    raise ValueError(f"line {number} is empty")
                tokens.append(words[0])
    except ValueError as error:
        raise ValueError(f"{path} must have a token on each line, in UTF-8: {error}.") from error
    return tokens


def _read_object(path: str) -> list[str]:
    if path.endswith(".json"):
        try:
            with open(path, encoding="utf-8") as file:
                vocabulary = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}.") from error
    else:
        vocabulary = load_torch_file(path)
    if isinstance(vocabulary, Mapping):
        for key in ("idx2sym", "sym2idx"):
            if isinstance(vocabulary.get(key), (Mapping, Sequence)):
                vocabulary = vocabulary[key]
                break
    if isinstance(vocabulary, Mapping):
        if sorted(vocabulary.values(), key=str) != sorted(range(len(vocabulary)), key=str):
            raise ValueError(f"{path} must give the tokens the ids 0, 1, 2, ...; it does not.")
        vocabulary = sorted(vocabulary, key=vocabulary.get)
    is_list = isinstance(vocabulary, Sequence) and not isinstance(vocabulary, (str, bytes))
    if not is_list or not all(isinstance(token, str) for token in vocabulary):
        raise ValueError(f"{path} holds no list of tokens.")
    return list(vocabulary)
