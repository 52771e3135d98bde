"""A breakdown of the loss for people: tables and a picture."""

import os

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from transformer_xl.training.evaluate import perplexity_of

_COLOURS = {"valid": "#8a9ba8", "test": "#1f6f8b", "train": "#c98b2b"}
_LOSS, _TOKENS = "#d1495b", "#b8c4cc"


def breakdown_tables(results: dict) -> str:
    """For each split a table by frequency and one by position in the segment.

    Args:
      results: by split, each with the figures of `Breakdown.figures` and of the whole split.
    """
    lines = []
    for split, row in results.items():
        names = [band["name"] for band in row["bands"]]
        width = max(24, *(len(name) + 2 for name in names))
        lines += [
            "",
            f"{split + ', by frequency':{width}} {'ids':>19} {'tokens':>12} {'of tokens':>10} "
            f"{'of loss':>8} {'perplexity':>14}",
        ]
        for band in row["bands"]:
            ids = f"{band['first_id']:,}-{band['last_id']:,}"
            lines.append(
                f"{'  ' + band['name']:{width}} {ids:>19} {band['tokens']:12,} "
                f"{band['share_of_tokens']:10.1%} {band['share_of_loss']:8.1%} "
                f"{_number(band['perplexity']):>14}"
            )
        ids = f"0-{row['bands'][-1]['last_id']:,}"
        lines += [
            f"{'  all':{width}} {ids:>19} {row['tokens']:12,} {1:10.1%} {1:8.1%} "
            f"{_number(row['perplexity']):>14}",
            "",
            f"{split + ', by position':{width}} {'':>19} {'tokens':>12} {'':>10} {'':>8} "
            f"{'perplexity':>14}",
        ]
        for name, tokens, perplexity in _grouped(row["positions"]):
            lines.append(
                f"{'  ' + name:{width}} {'':>19} {tokens:12,} {'':>10} {'':>8} "
                f"{_number(perplexity):>14}"
            )
    return "\n".join(lines)


def settings_line(settings: dict) -> str:
    """The settings of an evaluation in one line, since a perplexity without them says little."""
    parts = [
        f"{settings['batch_size']} stream{'s' * (settings['batch_size'] != 1)}",
        f"segments of {settings['segment_length']}",
        f"memory of {settings['memory_length']}",
        "no clamp"
        if settings["clamp_length"] < 0
        else f"distances clamped at {settings['clamp_length']}",
    ]
    if settings["same_length"]:
        parts.append("same length")
    return ", ".join(parts)


def draw_breakdown(results: dict, title: str, path: str):
    """Draws the bands and positions of all splits.

    Args:
      results: as for `breakdown_tables`.
      title: above everything.
      path: of the PNG, written whole or not at all.
    """
    height = max(4.6, 2.2 + 0.55 * len(next(iter(results.values()))["bands"]))
    figure = Figure(figsize=(13, height), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.012, ha="left")
    by_band, shares, by_position = figure.subplots(1, 3, width_ratios=[1.05, 1, 1.25])
    _draw_bands(by_band, results)
    *_, last = results
    _draw_shares(shares, results[last]["bands"], last)
    _draw_positions(by_position, results)
    for axes in (by_band, shares, by_position):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0, which="both")
    FigureCanvasAgg(figure)
    temporary = f"{path}.tmp"
    figure.savefig(temporary, dpi=130, format="png")
    os.replace(temporary, path)


def _draw_bands(axes, results):
    thickness = 0.8 / len(results)
    perplexities = [
        band["perplexity"] for row in results.values() for band in row["bands"] if band["tokens"]
    ]
    left = min(perplexities) / 3  # a logarithmic axis has no zero
    for number, (split, row) in enumerate(results.items()):
        for place, band in enumerate(row["bands"]):
            if not band["tokens"]:
                continue
            middle = place + (number - (len(results) - 1) / 2) * thickness
            label = split if place == 0 else None
            value = band["perplexity"]
            axes.barh(
                middle, value - left, thickness * 0.9, left, color=_COLOURS[split], label=label
            )
            axes.annotate(
                _number(value),
                (value, middle),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    axes.set(xscale="log", xlim=(left, max(perplexities) * 6), title="perplexity by frequency")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(lambda x, _: "")
    _band_ticks(axes, next(iter(results.values()))["bands"])
    if len(results) > 1:
        # Beside the head's bars, which are the shortest.
        axes.legend(frameon=False, loc="upper right", fontsize=9)


def _draw_shares(axes, bands, split):
    for place, band in enumerate(bands):
        for shift, share, colour, label in (
            (-0.2, band["share_of_tokens"], _TOKENS, "of the tokens"),
            (0.2, band["share_of_loss"], _LOSS, "of the loss"),
        ):
            axes.barh(place + shift, share, 0.36, color=colour, label=None if place else label)
            axes.annotate(
                f"{share:.1%}",
                (share, place + shift),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    axes.set(xlim=(0, 1.18), title=f"share of tokens and loss, {split}")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}" if x <= 1 else "")
    _band_ticks(axes, bands)
    axes.legend(frameon=False, loc="lower right", fontsize=9)


def _band_ticks(axes, bands):
    names = [f"{band['name']}\n{band['first_id']:,}-{band['last_id']:,}" for band in bands]
    axes.set_yticks(range(len(bands)), names, fontsize=9)
    axes.invert_yaxis()


def _draw_positions(axes, results):
    for split, row in results.items():
        means = np.array(row["positions"]["nll"], float)  # None becomes NaN
        places = 1 + np.flatnonzero(np.isfinite(means))
        means, colour = means[places - 1], _COLOURS[split]
        axes.plot(places, np.exp(means), ".", color=colour, ms=4, alpha=0.45, mew=0)
        axes.plot(places, np.exp(_smooth(means)), color=colour, lw=1.8, label=split)
        axes.axhline(row["perplexity"], color=colour, lw=0.8, ls="--", alpha=0.7)
    axes.set(xlabel="position\nline: mean of neighbours; dashed: the whole split")
    axes.set_title("perplexity by position in the segment")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.margins(x=0.02)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Means over an eighth of the positions around each, fewer at the ends."""
    reach = len(values) // 16
    return np.array([values[max(i - reach, 0) : i + reach + 1].mean() for i in range(len(values))])


def _grouped(positions: dict):
    """Positions 1, 2, 3-4, 5-8, ... with their tokens and perplexities."""
    length, start = len(positions["tokens"]), 0
    while start < length:
        end = min(max(2 * start, 1), length)
        tokens = positions["tokens"][start:end]
        total = sum(count * nll for count, nll in zip(tokens, positions["nll"][start:end]) if count)
        name = f"{start + 1}" if end == start + 1 else f"{start + 1} to {end}"
        count = sum(tokens)
        yield name, count, perplexity_of(total / count) if count else None
        start = end


def _number(value: float | None) -> str:
    """Three digits or more."""
    if value is None:
        return "-"
    return f"{value:,.2f}" if value < 1000 else f"{value:,.0f}" if value < 1e9 else f"{value:.2e}"
