"""What a long training run did to memory and speed, from its reports.

  python -m benchmarks.long_run WORKDIR [--window=20] [--json=FILE] [--plot=FILE]

Reads `metrics.jsonl`: resident memory and tokens a second over the time of the run, the growth of
memory within its last minutes (of a line fitted to the reports, so that a single one does not
decide), and speed in them beside the speed before. Ends with 1 if memory grew by 1 percent or
more or speed fell by more than 5 percent. The first reports, while things are compiled, are left
out.
"""

import argparse
import json
import pathlib
import statistics
import sys

import numpy as np

_MAX_GROWTH, _MAX_FALL = 0.01, 0.05
_SETTLING = 60  # seconds at the beginning that are left out


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("--window", type=float, default=20, help="minutes at the end")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--plot", help="file for a picture")
    options = parser.parse_args(arguments)
    lines = (options.workdir / "metrics.jsonl").read_text().splitlines()
    reports = [report for report in map(json.loads, lines) if report["split"] == "train"]
    figures = analysed(reports, options.window * 60)
    print(table(figures))
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")
    if options.plot:
        draw(reports, options.plot)
    fine = figures["memory_growth"] < _MAX_GROWTH and figures["speed_change"] > -_MAX_FALL
    return 0 if fine else 1


def analysed(reports: list[dict], window: float) -> dict:
    """The figures of a run's training reports.

    Args:
      reports: with `time`, `memory_gb`, `tokens_per_second`.
      window: seconds at the end.

    Returns:
      By name, among them `memory_growth`, of the fitted line over the window as a part of its
      beginning, and `speed_change`, of the median in the window as a part of the median before.

    Raises:
      ValueError: if the run is not longer than the window.
    """
    start, end = reports[0]["time"], reports[-1]["time"]
    settled = [r for r in reports if r["time"] >= start + _SETTLING]
    before = [r for r in settled if r["time"] < end - window]
    last = [r for r in settled if r["time"] >= end - window]
    if len(before) < 2 or len(last) < 3:
        raise ValueError(
            f"The run must be longer than the window by more than {_SETTLING} seconds. Received: "
            f"{(end - start) / 60:.1f} minutes, a window of {window / 60:.1f}."
        )
    times = np.array([r["time"] for r in last]) - last[0]["time"]
    memory = np.array([r["memory_gb"] for r in last])
    slope, level = np.polyfit(times, memory, 1)
    speeds = [statistics.median(r["tokens_per_second"] for r in part) for part in (before, last)]
    return {
        "minutes": (end - start) / 60,
        "steps": reports[-1]["step"],
        "window_minutes": window / 60,
        "memory_gb_at_start_of_window": float(level),
        "memory_growth": float(slope * times[-1] / level),
        "memory_gb_first": settled[0]["memory_gb"],
        "memory_gb_last": reports[-1]["memory_gb"],
        "memory_gb_most": max(r["memory_gb"] for r in reports),
        "tokens_per_second_before": speeds[0],
        "tokens_per_second_in_window": speeds[1],
        "speed_change": speeds[1] / speeds[0] - 1,
    }


def table(figures: dict) -> str:
    """The figures for people."""
    f = figures
    return (
        f"{f['minutes']:.1f} minutes, {f['steps']:,} steps\n"
        f"resident memory: {f['memory_gb_first']:.3f} GB after a minute, "
        f"{f['memory_gb_last']:.3f} GB at the end, at most {f['memory_gb_most']:.3f} GB\n"
        f"in the last {f['window_minutes']:.0f} minutes it grew by {f['memory_growth']:+.2%}\n"
        f"tokens/s: {f['tokens_per_second_before']:,.0f} before, "
        f"{f['tokens_per_second_in_window']:,.0f} in them ({f['speed_change']:+.1%})"
    )


def draw(reports: list[dict], path: str):
    """Memory and speed over the time of the run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    minutes = [(r["time"] - reports[0]["time"]) / 60 for r in reports]
    figure = Figure(figsize=(7, 5), layout="constrained")
    rows = figure.subplots(2, sharex=True)
    for axes, name, label in zip(
        rows, ("memory_gb", "tokens_per_second"), ("resident memory, GB", "tokens/s")
    ):
        axes.plot(minutes, [r[name] for r in reports], linewidth=1)
        axes.set(ylabel=label, ylim=(0, None))
        axes.grid(alpha=0.3)
    rows[-1].set(xlabel="minutes")
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
