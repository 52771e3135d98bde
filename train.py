"""Trains, evaluates, samples and scores with Transformer-XL language models.

  python train.py                                  trains the demo on the built-in corpus
  python train.py --flagfile=configs/wikitext103_base.flags --data_dir=DIR
  python train.py --mode=prepare --corpus=wikitext103
  python train.py --mode=eval --workdir=DIR --eval_memory_length=640
  python train.py --mode=generate --workdir=DIR --prompt="The President"
  python train.py --mode=score --workdir=DIR --input_file=FILE
  python train.py --mode=export --workdir=DIR      a SavedModel for TensorFlow Serving
  python train.py --mode=explore --workdir=DIR --input_file=FILE   a page to look at
  python train.py --init_from=WEIGHTS --corpus=text --data_dir=DIR --workdir=DIR   goes on from them

Flags after a --flagfile override it. Started again with the same --workdir, training goes on where
it stopped. Exit codes: 0 done; 1 failed; 2 wrong use or bad input; 75 stopped by a signal after
saving; 130 interrupted by Ctrl-C, 143 ended by SIGTERM, where there was nothing to save; 141 nobody
reads the output.
"""

import importlib
import os
import pathlib
import signal
import sys

# TensorFlow itself uses oneDNN's kernels only on CPUs with VNNI, though they are faster on all that
# have AVX2 (docs/speed.md). It reads this when it is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# While TensorFlow is imported, which takes seconds, Ctrl-C ends the program without a traceback.
_HANDLER = signal.getsignal(signal.SIGINT)
if __name__ == "__main__" and _HANDLER is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from absl import app, logging
from absl import flags as absl_flags

import flags
from data_utils.disk_room import NO_ROOM
from flag_groups import inspection, model, text, training
from modes.terminal import INTERRUPTED, fail, reader_has_left
from transformer_xl.training.divergence import DivergedError
from transformer_xl.training.state_store import CheckpointError

for _group in (flags, model, training, inspection, text):
    absl_flags.adopt_module_key_flags(_group)

_DEMO = pathlib.Path(__file__).parent / "configs" / "demo.flags"
# The file of each mode, imported when it is asked for.
_FILES = {
    "train": "training",
    "eval": "evaluation",
    "generate": "generation",
    "score": "scoring",
    "export": "exporting",
    "explore": "exploring",
    "prepare": "preparation",
}


def main(argv):
    del argv  # refused by parse_flags
    if not absl_flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # TensorFlow tells much of its own saving
    try:
        _run_mode()
    except KeyboardInterrupt:
        fail("interrupted: what was there before is as it was", INTERRUPTED)


def _run_mode():
    try:
        flags.check_mode()
        run = importlib.import_module(f"modes.{_FILES[flags.MODE.value]}").set_up()
    except (ValueError, OSError, ImportError) as error:
        _end(error, 2)
    try:
        run()
        sys.stdout.flush()
    except (DivergedError, CheckpointError, OSError) as error:
        _end(error, 1)


def _end(error, code):
    if isinstance(error, BrokenPipeError) and flags.MODE.value != "train":
        reader_has_left()
    # A full disk is not the user's mistake, whenever it is noticed.
    fail(f"error: {error}", 1 if getattr(error, "errno", None) in NO_ROOM else code)


def parse_flags(argv):
    """Parses the command line; wrong use ends with one message and exit code 2."""
    values = absl_flags.FLAGS
    # Given weights bring an architecture, so that the demo's has no place beside them.
    recipe = any(
        argument.lstrip("-").startswith(("flagfile", "init_from")) for argument in argv[1:]
    )
    try:
        rest = _parsed(argv)
        if flags.MODE.value in ("train", "prepare") and not recipe and not values["corpus"].present:
            # No recipe and no corpus: the demo, with what is given on the command line.
            values.unparse_flags()
            rest = _parsed([argv[0], f"--flagfile={_DEMO}", *argv[1:]])
        if rest[1:]:
            raise absl_flags.Error(f"Unknown arguments: {' '.join(rest[1:])}. Flags begin with --.")
    except absl_flags.Error as error:
        fail(f"error: {error}\nRun `python train.py --help` to see the flags.", 2)
    return rest


def _parsed(argv):
    try:
        return absl_flags.FLAGS(argv)
    except SystemExit:
        sys.exit(0)  # --help and the like were answered; absl ends with 1 then


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _HANDLER)
    app.run(main, flags_parser=parse_flags)
