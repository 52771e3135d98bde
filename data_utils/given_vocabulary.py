"""A vocabulary that comes with a model, whose ids are fixed before any text is counted."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .tokenization import EOS, UNK, check_rule
from .vocabulary import WordVocabulary, _Ids


class GivenVocabulary(WordVocabulary):
    """As `WordVocabulary`, but in the order of another model's ids, whatever the counts are here.

    Adaptive layers are fast where that order is near the text's own.
    """

    _FORMAT = "given vocabulary 1"

    def __init__(
        self, tokens: Sequence[str], counts: Sequence[int], tokenization: str = "whitespace"
    ):
        """Raises ValueError for tokens that no text can give, and without `<eos>` or `<unk>`."""
        self.tokens = tuple(tokens)
        self.counts = tuple(int(count) for count in counts)
        self.tokenization = check_rule(tokenization)
        if len(self.tokens) != len(self.counts) or min(self.counts, default=0) < 0:
            raise ValueError("Each token needs one count, at least 0.")
        if len(set(self.tokens)) != len(self.tokens):
            raise ValueError("Tokens must be unique. Received one twice.")
        for special in (EOS, UNK):
            if special not in self.tokens:
                raise ValueError(
                    f"A vocabulary needs {EOS} and {UNK}. The model's has no {special}."
                )
        for token in self.tokens:
            if token.split() != [token]:
                raise ValueError(
                    f"A token has no white space and is not empty. Received: {token!r}."
                )
        self._ids = _Ids(self.tokens)
        self.eos_id = self._ids[EOS]
        self.unk_id = self._ids[UNK]

    @classmethod
    def from_tokens(
        cls, tokens: Sequence[str], counts: Mapping[str, int], tokenization: str
    ) -> "GivenVocabulary":
        """The vocabulary of a model, with the counts of a text.

        Args:
            tokens: in the order of ids.
            counts: how often each token occurs in the training split. Tokens that are not in the
                vocabulary count as `<unk>`.
            tokenization: how the text is cut into tokens.
        """
        known = {token: counts.get(token, 0) for token in tokens}
        if UNK in known:
            known[UNK] += sum(counts.values()) - sum(known.values())
        return cls(tokens, [known[token] for token in tokens], tokenization)


def load_vocabulary(path: str | os.PathLike) -> WordVocabulary:
    """Reads what the `save` of either kind wrote; raises as `WordVocabulary.load`."""
    if Path(path).is_file():
        with open(path, "rb") as file:
            if file.readline(80).rstrip(b"\n") == GivenVocabulary._FORMAT.encode():
                return GivenVocabulary.load(path)
    return WordVocabulary.load(path)


def digest_tokens(tokens: Sequence[str]) -> str:
    """sha256 of tokens in their order, in hexadecimal."""
    return hashlib.sha256("\n".join(tokens).encode("utf-8", "surrogatepass")).hexdigest()
