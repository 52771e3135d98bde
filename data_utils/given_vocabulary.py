"""A vocabulary that comes with a model, whose ids are fixed before any text is counted."""

import hashlib
from collections.abc import Mapping, Sequence

from .tokenization import UNK
from .vocabulary import WordVocabulary


class GivenVocabulary(WordVocabulary):
    """As `WordVocabulary`, but in the order of another model's ids, whatever the counts are here.

    Adaptive layers are fast where that order is near the text's own.
    """

    _FORMAT = "given vocabulary 1"
    _IS_SORTED = False

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

        Raises ValueError for tokens that no text can give, and without `<eos>` or `<unk>`.
        """
        known = {token: counts.get(token, 0) for token in tokens}
        if UNK in known:
            known[UNK] += sum(counts.values()) - sum(known.values())
        return cls(tokens, [known[token] for token in tokens], tokenization)


def tokens_digest(tokens: Sequence[str]) -> str:
    """sha256 of tokens in their order, in hexadecimal."""
    return hashlib.sha256("\n".join(tokens).encode("utf-8")).hexdigest()
