"""What happens to a run on several machines when one of them is gone."""

import contextlib
import os
import sys

import tensorflow as tf

from transformer_xl.training.distribute import Replicas


@contextlib.contextmanager
def lost_workers_end_the_run(replicas: Replicas, directory: str):
    """Ends this process with one message when another one does not answer any more.

    TensorFlow's collective operations fail then, within seconds where the other's connection was
    closed, and after its checks of health where it is silent.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if not replicas.multi_worker:
            raise
        told = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in told if "/job:worker" in line), told[0])[:200]
        print(
            "error: another worker stopped or cannot be reached, so that this one cannot go on "
            f"({type(error).__name__}: {reason}). Start all of them again, or as many as there "
            f"are, with --workdir={directory}: training goes on from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        sys.stdout.flush()
        # At once: an ordinary end would wait for the other's goodbye.
        os._exit(1)
