"""What a run says: lines or a progress bar, metrics.jsonl, TensorBoard events, a plot."""

import gc
import json
import math
import os
import sys
import time

import tensorflow as tf
import tqdm
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from transformer_xl.strict_json import strict_json
from transformer_xl.training.evaluate import perplexity_of
from transformer_xl.training.memory_use import memory_use
from transformer_xl.training.workdir import write_atomically

_SPLIT_NAMES = {"train": "training", "valid": "validation"}


class Reporter:
    """Writes a run's reports into its directory and shows its progress.

    `metrics.jsonl` has one JSON object a report: `step`, `split`, `loss` (nats per token),
    `perplexity`, and for training `learning_rate`, `gradient_norm`, `tokens_per_second`, the
    `seconds` they took and the memory in use (see `memory_use`). TensorBoard gets the same. Reports
    of steps after `step`, which a run that was cut short wrote and will write again, are dropped.

    Args:
      directory: the run's.
      step: the step from which the run goes on.
      max_steps: the last step.
      stream: where progress is shown: a bar on a terminal, plain lines elsewhere.
    """

    def __init__(self, directory: str, step: int, max_steps: int, stream=None):
        self.metrics_path = os.path.join(directory, "metrics.jsonl")
        self.plot_path = os.path.join(directory, "loss.png")
        self.records = _read_until(self.metrics_path, step)
        write_atomically(self.metrics_path, _as_lines(self.records))
        self._metrics = open(self.metrics_path, "a", encoding="utf-8")  # noqa: SIM115 (see close)
        self._events = tf.summary.create_file_writer(os.path.join(directory, "tensorboard"))
        self._max_steps = max_steps
        self._stream = stream or sys.stdout
        self._bar = None
        self._step_done = step
        self._spent = 0.0
        self._steps_timed = 0
        if self._stream.isatty():
            self._bar = tqdm.tqdm(
                total=max_steps, initial=step, unit="step", file=self._stream, dynamic_ncols=True
            )

    def train(self, step, loss, learning_rate, gradient_norm, tokens_per_second, seconds, **more):
        """Reports the training steps since the last report, which took `seconds`.

        `more`: `bad_steps` so far, if any were left out, which is also shown; `loss_scale` in
        float16; `cluster_loss` and `cluster_hit_rate`, see `cluster_losses`.
        """
        self._write(
            step,
            "train",
            loss,
            learning_rate=learning_rate,
            gradient_norm=gradient_norm,
            tokens_per_second=tokens_per_second,
            seconds=seconds,
            **memory_use(),
            **more,
        )
        self._spent += seconds
        self._steps_timed += step - self._step_done
        perplexity = perplexity_of(loss)
        if self._bar is not None:
            self._bar.update(step - self._step_done)
            self._bar.set_postfix_str(
                f"loss {loss:.3f}, perplexity {perplexity:.1f}, {tokens_per_second:,.0f} tokens/s"
            )
        else:
            left = self._spent / self._steps_timed * (self._max_steps - step)
            bad = f"  {more['bad_steps']:,} left out" if "bad_steps" in more else ""
            self.say(
                f"step {step:,}/{self._max_steps:,}  loss {loss:.4f}  perplexity {perplexity:,.1f}"
                f"  learning rate {learning_rate:.2e}  {tokens_per_second:,.0f} tokens/s"
                f"  {_duration(left)} left{bad}"
            )
        self._step_done = step

    def valid(self, step, loss, is_best, seconds):
        """Reports an evaluation on the validation split."""
        self._write(step, "valid", loss)
        self.say(
            f"step {step:,}: validation loss {loss:.4f}, perplexity {perplexity_of(loss):,.2f}"
            f"{', the best so far' if is_best else ''} ({_duration(seconds)})"
        )
        self.draw()

    def go_back(self, step: int):
        """Forgets the reports of steps after `step`, which will be done again."""
        self._metrics.close()
        self.records = [record for record in self.records if record["step"] <= step]
        write_atomically(self.metrics_path, _as_lines(self.records))
        self._metrics = open(self.metrics_path, "a", encoding="utf-8")  # noqa: SIM115 (see close)
        self._step_done = step

    def losses(self) -> list[float]:
        """Those of the training reports so far that are finite; null in a file is none."""
        losses = (r["loss"] for r in self.records if r["split"] == "train")
        return [loss for loss in losses if loss is not None and math.isfinite(loss)]

    def train_seconds(self) -> float:
        """The time of all training steps, without evaluations and checkpoints."""
        return sum(r["seconds"] for r in self.records if r["split"] == "train")

    def has_validated(self, step) -> bool:
        """Whether the evaluation after this step is among the reports."""
        return any(r["step"] == step and r["split"] == "valid" for r in self.records)

    def say(self, line: str):
        """A line of text, above the progress bar where there is one."""
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            print(line, file=self._stream, flush=True)

    def draw(self):
        """Draws the losses so far into loss.png."""
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for split, style in (("train", "-"), ("valid", "o-")):
            points = [(r["step"], r["perplexity"]) for r in self.records if r["split"] == split]
            if points:
                axes.plot(*zip(*points), style, label=_SPLIT_NAMES[split], markersize=4)
        axes.set(xlabel="step", ylabel="perplexity", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_minor_formatter("{x:,.0f}")
        axes.grid(alpha=0.3, which="both")
        if axes.lines:
            axes.legend()
        FigureCanvasAgg(figure)
        temporary = f"{self.plot_path}.tmp"
        figure.savefig(temporary, dpi=120, format="png")
        os.replace(temporary, self.plot_path)
        # A figure refers to itself, and Python seldom looks for such things: a megabyte each.
        del figure, axes, axis
        gc.collect()

    def close(self):
        if self._bar is not None:
            self._bar.close()
        self._metrics.close()
        self._events.close()

    def _write(self, step, split, loss, **more):
        record = {
            "step": step,
            "split": split,
            "loss": loss,
            "perplexity": perplexity_of(loss),
            **more,
            "time": time.time(),
        }
        self.records.append(record)
        self._metrics.write(_as_lines([record]))
        self._metrics.flush()
        with self._events.as_default(step=step):
            for name in record.keys() - {"step", "split", "time"}:
                several = isinstance(record[name], list)
                for part, value in enumerate(record[name] if several else [record[name]]):
                    if value is not None:
                        tf.summary.scalar(f"{split}/{name}{f'/{part}' * several}", value)


def results_table(results: dict) -> str:
    """The evaluated splits with the unigram model's perplexity beside the model's.

    Args:
      results: by split, each with `perplexity`, `unigram_perplexity`, `tokens`, `unknown_rate`,
        and, where tokens are not words, `perplexity_per_word` and `bits_per_character`.
    """
    # Where a word is more than a token, or less, the perplexity of words is another one.
    per_word = any(
        row.get("perplexity_per_word", row["perplexity"]) != row["perplexity"]
        for row in results.values()
    )
    lines = [
        f"{'split':12} {'perplexity':>12} {'unigram model':>15} {'tokens':>12} {'unknown':>9}"
        + f" {'per word':>12} {'bits/char':>10}" * per_word
    ]
    for split, row in results.items():
        lines.append(
            f"{_SPLIT_NAMES.get(split, split):12} {row['perplexity']:12,.2f} "
            f"{row['unigram_perplexity']:15,.2f} {row['tokens']:12,} {row['unknown_rate']:9.2%}"
            + (
                f" {row['perplexity_per_word']:12,.2f} {row['bits_per_character']:10.3f}"
                if per_word
                else ""
            )
        )
    return "\n".join(["", *lines])


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {seconds:02}s"


def _as_lines(records: list[dict]) -> str:
    return "".join(strict_json(record) + "\n" for record in records)


def _read_until(path: str, step: int) -> list[dict]:
    records = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                try:
                    record = json.loads(line)
                except ValueError:
                    break  # the last line of a run that was killed while it wrote
                if record["step"] <= step:
                    records.append(record)
    return records
