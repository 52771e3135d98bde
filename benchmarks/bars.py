"""A picture of bars: one panel for each size, one bar for each method."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

OURS, PEER = "#0072B2", "#D55E00"  # of Okabe and Ito, apart for everyone


def draw_bars(panels, title: str, path: str):
    """Writes the picture.

    Args:
      panels: pairs of a panel's title and its values by method; methods that begin with "ours"
        have one colour, the others another.
      title: of all.
      path: of the PNG.
    """
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, (name, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        colours = [OURS if method.startswith("ours") else PEER for method in values]
        bars = axes.barh(
            [method.replace("_", " ") for method in values], list(values.values()), color=colours
        )
        axes.bar_label(bars, fmt="{:,.0f}", padding=3)
        axes.set_title(name)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
