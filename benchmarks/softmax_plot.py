"""What `benchmarks.softmax` found, as a picture of four panels."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from benchmarks.softmax_table import dtype_text, short_reason

# The colours of Okabe and Ito, which people who see few colours can tell apart.
COLOURS = {
    "full": "#444444",
    "chunked": "#E69F00",
    "adaptive": "#0072B2",
    "sampled": "#009E73",
    "torch": "#D55E00",
    "torch_bfloat16": "#F0E442",
    "keras_adaptive_softmax": "#CC79A7",
}
LABELS = {
    "full": "full softmax (Dense)",
    "chunked": "ours, full in chunks",
    "adaptive": "ours, AdaptiveSoftmax",
    "sampled": "ours, sampled (estimate)",
    "torch": "torch, adaptive",
    "torch_bfloat16": "torch, adaptive, bfloat16",
    "keras_adaptive_softmax": "keras-adaptive-softmax",
}
MARKERS = {"torch": "s", "torch_bfloat16": "s", "keras_adaptive_softmax": "s"}
OURS = "adaptive"
TEXT = 10.5
LABEL_GAP = 0.07  # of the height of a panel


def draw(results: dict, path: str):
    """Writes the picture.

    Args:
      results: of `benchmarks.softmax`, with at least one cell.
      path: of the PNG.
    """
    settings, cells = results["settings"], results["cells"]
    by_vocabulary = _sorted(cells, "tokens", settings["tokens"], "vocab_size")
    by_tokens = _sorted(cells, "vocab_size", settings["batch_vocab_size"], "tokens")
    by_tokens = by_tokens or _sorted(cells, "vocab_size", cells[0]["vocab_size"], "tokens")
    largest = by_vocabulary[-1]
    figure = Figure(figsize=(16, 11), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.15)
    panels = figure.subplots(2, 2)
    at_tokens = f"{settings['tokens']:,} tokens a step"

    _lines(panels[0, 0], by_vocabulary, "vocab_size", lambda r, _: r["step_seconds"]["median"])
    _finish(panels[0, 0], f"Time of loss and gradients, {at_tokens}", "vocabulary", _time)
    _bars(panels[0, 1], largest)
    _lines(panels[1, 0], by_vocabulary, "vocab_size", lambda r, _: r["peak_memory_bytes"])
    _finish(
        panels[1, 0],
        f"Peak memory beyond the weights, {at_tokens}",
        "vocabulary",
        _memory,
    )
    _lines(
        panels[1, 1],
        by_tokens,
        "tokens",
        lambda r, cell: r["step_seconds"]["median"] / cell["tokens"] * 1000,
    )
    title = f"Time per 1,000 tokens, vocabulary of {by_tokens[0]['vocab_size']:,}"
    _finish(panels[1, 1], title, "tokens a step", _time)

    figure.suptitle(
        "What the softmax of a language model costs in training\n", fontsize=18, fontweight="bold"
    )
    figure.text(0.5, 0.947, _subtitle(results), ha="center", fontsize=12, color="#333333")
    notes = _notes(cells)
    if notes:
        figure.supxlabel(notes, fontsize=9.5, color="#444444")
    figure.savefig(path, dpi=110, format="png")


def _sorted(cells, same, value, by):
    return sorted((cell for cell in cells if cell[same] == value), key=lambda cell: cell[by])


def _lines(axes, cells, x, y):
    """A line for each method, with its name at the end."""
    ends = []
    axes.set(xscale="log", yscale="log")
    for name in COLOURS:
        points = [
            (cell[x], y(cell["methods"][name], cell))
            for cell in cells
            if cell["methods"].get(name, {}).get("status") == "ok"
        ]
        if not points:
            continue
        axes.plot(
            *zip(*points),
            color=COLOURS[name],
            marker=MARKERS.get(name, "o"),
            markersize=6,
            linestyle="--" if name in MARKERS else "-",
            linewidth=3.5 if name == OURS else 2,
            zorder=3 if name == OURS else 2,
        )
        ends.append((name, *points[-1]))
    axes.xaxis.set_major_locator(FixedLocator([cell[x] for cell in cells]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    if len(cells) == 1:
        axes.set_xlim(cells[0][x] / 2, cells[0][x] * 2)
    _name_ends(axes, ends)


def _name_ends(axes, ends):
    """Names of lines to the right of the panel, apart from each other, tied to the lines' ends."""
    if not ends:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = sorted((to_axes.transform((x, y))[1], name, x, y) for name, x, y in ends)
    places = spread([height for height, *_ in heights], LABEL_GAP)
    for place, (_, name, x, y) in zip(places, heights):
        axes.annotate(
            LABELS[name],
            (x, y),
            xytext=(1.04, place),
            textcoords="axes fraction",
            color=COLOURS[name],
            fontsize=TEXT,
            fontweight="bold" if name == OURS else "normal",
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": COLOURS[name],
                "alpha": 0.6,
                "shrinkA": 2,
                "shrinkB": 5,
                # To the middle of the name's left side, clear of the other names.
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )


def spread(heights: list, gap: float) -> list:
    """Rising heights, moved as little as need be to lie `gap` apart."""
    # What has to move together, and the mean of where its middle would be.
    groups = []
    for height in heights:
        groups.append(([height], height))
        while len(groups) > 1:
            (below, low), (above, high) = groups[-2:]
            if high - low >= gap * (len(below) + len(above)) / 2:
                break
            both = below + above
            groups[-2:] = [(both, sum(both) / len(both))]
    return [
        middle + gap * (i - (len(group) - 1) / 2)
        for group, middle in groups
        for i in range(len(group))
    ]


def _bars(axes, cell):
    """A bar for each method, the number on it."""
    names = list(cell["methods"])
    speedups = [cell["methods"][name].get("speedup") or 0 for name in names]
    axes.barh(names, speedups, color=[COLOURS[name] for name in names], height=0.68)
    axes.invert_yaxis()
    room = max([*speedups, 1])
    axes.set_xlim(0, 1.22 * room)
    for i, (name, speedup) in enumerate(zip(names, speedups)):
        result = cell["methods"][name]
        if result["status"] != "ok":
            text, style = short_reason(result), {"style": "italic", "color": "#777777"}
        elif not speedup:
            text, style = "no full softmax to compare with", {"style": "italic"}
        else:
            text, style = (
                f"{speedup:.{1 if speedup >= 2 else 2}f}×",
                {"fontweight": "bold", "color": COLOURS[name]},
            )
        axes.text(speedup + 0.012 * room, i, text, va="center", fontsize=12, **style)
    axes.set_yticks(range(len(names)), [LABELS[name] for name in names], fontsize=TEXT)
    title = f"Speed-up over the full softmax, vocabulary of {cell['vocab_size']:,}"
    axes.set_title(title, fontsize=13, loc="left", fontweight="bold")
    axes.set_xlabel(f"times as fast, loss and gradients, {cell['tokens']:,} tokens a step")
    axes.spines[["top", "right"]].set_visible(False)


def _finish(axes, title, x_name, y_format):
    axes.set_title(title, fontsize=13, loc="left", fontweight="bold")
    axes.set_xlabel(x_name, fontsize=TEXT)
    low, high = axes.get_ylim()
    subs = (1.0,) if high / low > 300 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(y_format))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _time(seconds, _=None):
    return f"{seconds:,.6g} s" if seconds >= 1 else f"{1e3 * seconds:,.6g} ms"


def _memory(number, _=None):
    return f"{number / 1e9:,.6g} GB" if number >= 1e9 else f"{number / 1e6:,.6g} MB"


def _subtitle(results):
    settings = results["settings"]
    cutoffs = ", ".join(f"{cutoff:,}" for cutoff in results["highlight"]["cutoffs"])
    return (
        f"{results['device']}, {settings['threads']} threads · {dtype_text(settings)}"
        f"{', XLA' if settings['jit_compile'] else ''} · hidden states {settings['hidden_dim']:,} "
        f"wide · clusters from {cutoffs}, div_val {settings['div_val']}"
    )


def _notes(cells):
    """A line on what could not be measured."""
    notes = {}
    for cell in cells:
        for name, result in cell["methods"].items():
            if result["status"] == "failed":
                size = f"{cell['vocab_size']:,} × {cell['tokens']:,}"
                notes.setdefault(f"{LABELS[name]} {short_reason(result)}", []).append(size)
    return "\n".join(f"{note} (at {', '.join(sizes)})" for note, sizes in notes.items())
