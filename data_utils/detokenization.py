"""Text as it is printed, from text whose tokens stand apart: WikiText's, the Penn Treebank's."""

import re

_INSIDE_WORDS = {"@-@": "-", "@,@": ",", "@.@": "."}
_GLUED_TO_THE_LEFT = re.compile(r"[,.;:!?)\]}%’”…]|\.\.\.|['’](?:s|S|re|ve|ll|d|m|t)?|n['’]t")
_GLUED_TO_THE_RIGHT = frozenset("([{$£“‘")


def detokenized(text: str) -> str:
    """Joins what a tokenizer put apart, line by line.

    `Teddy 's " two @-@ part " story , 1 @,@ 000 words` becomes
    `Teddy's "two-part" story, 1,000 words`. Nothing but spaces and the at signs of `@-@`, `@,@` and
    `@.@` is lost. How a token is joined depends on those before it only, so that a text that grows
    is never written otherwise than it was.
    """
    return "\n".join(map(_joined, text.split("\n")))


def _joined(line: str) -> str:
    pieces, quote_is_open, glue_next = [], False, True
    for token in line.split():
        inside = _INSIDE_WORDS.get(token)
        glue = glue_next or inside is not None or _GLUED_TO_THE_LEFT.fullmatch(token) is not None
        glue_next = inside is not None or token in _GLUED_TO_THE_RIGHT
        if token == '"':
            # It does not say on which side it belongs: take turns.
            glue = glue or quote_is_open
            glue_next = quote_is_open = not quote_is_open
        pieces.append(("" if glue else " ") + (inside or token))
    return "".join(pieces)
