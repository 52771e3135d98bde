"""The page of --mode=explore: one HTML file that needs nothing else."""

import html
import math
import pathlib

import numpy as np

from data_utils import WordVocabulary
from transformer_xl.explore import Expectations
from transformer_xl.strict_json import strict_json

_TEMPLATE = pathlib.Path(__file__).with_name("explore_page.html")
# Bits at which the next colour begins; as many colours as the page has, less one.
_LEVELS = (1, 2, 4, 6, 8, 11, 14)
_CHART_POINTS = 500


def page(
    title: str,
    settings: str,
    tokens: list,
    ids: np.ndarray,
    expected: Expectations,
    vocabulary,
    num_characters: int,
) -> str:
    """The page of a text.

    Args:
      title: of the text, as its file's name.
      settings: what it was scored with, in words.
      tokens: T of the vocabulary's, as they stand in the text.
      ids: int `[T]`, what the model read for them.
      expected: `Expectations` over the T tokens.
      vocabulary: of `data_utils`.
      num_characters: of the text.

    Returns:
      HTML, with everything of the text escaped.
    """
    names = [_shown(token) for token in tokens]
    bits = expected.nll / math.log(2)
    total = float(bits.sum(dtype=np.float64))
    unknown = ids == (-1 if vocabulary.unk_id is None else vocabulary.unk_id)
    # Words stand apart; characters, bytes and pieces have their spaces themselves.
    separator = " " if isinstance(vocabulary, WordVocabulary) else ""
    values = {
        "title": html.escape(title),
        "settings": html.escape(settings),
        "tiles": _tiles(total, len(ids), num_characters, int(unknown.sum())),
        "legend": _legend(),
        "clusters": _clusters(bits, expected.cluster),
        "chart": _chart(bits),
        "text": _text(names, tokens, bits, expected.cluster, unknown, separator),
        "data": _data(bits, expected, vocabulary),
    }
    template = _TEMPLATE.read_text(encoding="utf-8")
    # One pass over the template, so that nothing in the text is taken for a part of it.
    first, *rest = template.split("{{")
    filled = [first]
    for piece in rest:
        name, _, after = piece.partition("}}")
        filled += [values[name], after]
    return "".join(filled)


def _shown(token) -> str:
    """A token of any vocabulary as text; bytes are integers."""
    if isinstance(token, int):
        token = chr(token) if 32 <= token < 127 or token in (9, 10, 13) else f"\\x{token:02x}"
    if token in ("<eos>", "\n"):
        return "↵"
    return token.replace("\t", "⇥").replace("\r", "␍")


def _text(names, tokens, bits, clusters, unknown, separator) -> str:
    levels = np.searchsorted(_LEVELS, bits, side="right")
    lines, line = [], []
    for i, name in enumerate(names):
        kind = f"t s{levels[i]} k{min(clusters[i], 6)}" + (" u" if unknown[i] else "")
        if name == "↵" and tokens[i] != "↵":
            kind += " e"
        # The mark of pieces for a space becomes one.
        shown = name.replace("▁", " ") if not separator and len(name) > 1 else name
        line.append(f'<span class="{kind}">{html.escape(shown)}</span>')
        if " e" in kind:
            lines.append(f"<p>{separator.join(line)}</p>")
            line = []
    if line:
        lines.append(f"<p>{separator.join(line)}</p>")
    return "\n".join(lines)


def _tiles(total, num_tokens, num_characters, num_unknown) -> str:
    mean = total / num_tokens
    tiles = [
        (f"{num_tokens:,}", "tokens"),
        (_short(2 ** min(mean, 1000)), "perplexity"),
        (f"{mean:.2f}", "bits per token"),
        (f"{total / max(num_characters, 1):.2f}", "bits per character"),
        (f"{num_unknown / num_tokens:.1%}", "unknown"),
    ]
    return "".join(f"<div><dd>{value}</dd><dt>{name}</dt></div>" for value, name in tiles)


def _legend() -> str:
    edges = [0, *_LEVELS]
    labels = [f"{low}" for low in edges]
    return "".join(f'<li><span class="s{i}">{label}</span></li>' for i, label in enumerate(labels))


def _clusters(bits, clusters) -> str:
    """A row for each cluster; nothing where there is only one."""
    count = int(clusters.max()) + 1
    if count == 1:
        return ""
    rows = []
    for i in range(count):
        inside = bits[clusters == i]
        mean = f"{_short(2 ** min(float(inside.mean()), 1000))}" if len(inside) else "-"
        loss = float(inside.sum(dtype=np.float64)) / float(bits.sum(dtype=np.float64))
        name = "head" if i == 0 else f"tail {i}"
        rows.append(
            f'<tr><th scope="row"><span class="swatch k{min(i, 6)}"></span>{name}</th>'
            f"<td>{len(inside):,}</td><td>{len(inside) / len(bits):.1%}</td>"
            f"<td>{loss:.1%}</td><td>{mean}</td></tr>"
        )
    return (
        "<table><thead><tr><th scope='col'>cluster</th><th scope='col'>tokens</th>"
        "<th scope='col'>of tokens</th><th scope='col'>of surprise</th>"
        f"<th scope='col'>perplexity</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _chart(bits) -> str:
    """The mean surprise along the text as SVG, 1000 wide and 100 high, with its scale."""
    window = max(1, len(bits) // 60)
    sums = np.concatenate([[0.0], np.cumsum(bits, dtype=np.float64)])
    points = np.unique(np.linspace(0, len(bits) - 1, min(len(bits), _CHART_POINTS)).astype(int))
    low = np.maximum(points - window // 2, 0)
    high = np.minimum(points + window // 2 + 1, len(bits))
    means = (sums[high] - sums[low]) / (high - low)
    # Not from 0, where every text would be a flat line; both ends are written beside it.
    bottom = math.floor(float(means.min()) * 0.7)
    top = max(bottom + 1, math.ceil(float(means.max()) * 1.05))
    mean = float(sums[-1]) / len(bits)

    def height(value):
        return 100 - 100 * (value - bottom) / (top - bottom)

    width = max(len(bits) - 1, 1)
    steps = " ".join(f"{1000 * x / width:.1f},{height(y):.2f}" for x, y in zip(points, means))
    level = height(mean)
    return (
        f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" aria-hidden="true">'
        f'<polygon points="0,100 {steps} 1000,100"/><polyline points="{steps}"/>'
        f'<line class="mean" x1="0" x2="1000" y1="{level:.2f}" y2="{level:.2f}"/></svg>'
        f'<span class="top">{top} bits</span><span class="bottom">{bottom} bits</span>'
    )


def _data(bits, expected: Expectations, vocabulary) -> str:
    """What the page shows of a token when it is asked, as JSON that is safe inside a script."""
    used, places = np.unique(expected.candidate_ids, return_inverse=True)
    percent = 100 * np.exp(expected.candidate_log_prob.astype(np.float64))
    data = {
        "size": vocabulary.size,
        "names": [_shown(vocabulary.tokens[i]) for i in used],
        "bits": _rounded(bits),
        "rank": expected.rank.tolist(),
        "entropy": _rounded(expected.entropy / math.log(2)),
        "clusterBits": _rounded(expected.cluster_nll / math.log(2)),
        "candidates": places.reshape(expected.candidate_ids.shape).tolist(),
        "percent": [[float(f"{value:.3g}") for value in row] for row in percent],
    }
    text = strict_json(data, ensure_ascii=False, separators=(",", ":"))
    for character in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _rounded(values) -> list[float]:
    return np.round(values.astype(np.float64), 2).tolist()


def _short(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}" if value < 1e7 else f"{value:.1e}"
