"""One device, all devices of a machine, or several machines: who computes which rows.

B batch, R replicas. Every replica has `B / R` rows of each batch, the same in every step, and the
memory of these rows; the global batch, its order and what a checkpoint holds do not depend on R.
"""

import json
import os
from collections.abc import Callable

import tensorflow as tf

from transformer_xl.memory import Memory
from transformer_xl.training.rendezvous import host_and_port, meet


class Replicas:
    """The replicas of a `tf.distribute` strategy, and what they are given.

    Args:
      strategy: None for one device.

    Attributes:
      count: R.
      chief: whether this process is the one that writes.
      multi_worker: whether there are other processes.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None):
        self._strategy = strategy
        self.count = 1 if strategy is None else strategy.num_replicas_in_sync
        self.multi_worker = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self.chief = not self.multi_worker or strategy.cluster_resolver.task_id == 0
        # Compiled once: TensorFlow makes messages and threads anew in every call that is not.
        self._gathered = tf.function(self._gather, autograph=False)
        self._summed = tf.function(self._sum, autograph=False)
        self._lower = tf.function(self._minimum, autograph=False)

    def scope(self):
        """Where model, state and training step are made."""
        strategy = self._strategy
        return tf.distribute.get_strategy().scope() if strategy is None else strategy.scope()

    def split(self, value):
        """Each replica's rows of tensors `[B, ...]`, in a nest.

        Raises:
          ValueError: if B is not divisible by R.
        """
        if self._strategy is None:
            return value

        def of_replica(context):
            def rows(whole):
                size = whole.shape[0] // self.count
                first = context.replica_id_in_sync_group * size
                return tf.convert_to_tensor(whole[first : first + size])

            return tf.nest.map_structure(rows, value)

        self.check_batch_size(tf.nest.flatten(value)[0].shape[0])
        return self._strategy.experimental_distribute_values_from_function(of_replica)

    def check_batch_size(self, batch_size: int, accumulate_steps: int = 1):
        """Refuses batches that cannot be split.

        Raises:
          ValueError: if there is a remainder.
        """
        if batch_size % (self.count * accumulate_steps):
            raise ValueError(
                f"batch_size must be divisible by the number of replicas, {self.count}"
                + f", times accumulate_steps, {accumulate_steps}" * (accumulate_steps > 1)
                + f", so that each has as many rows. Received: batch_size={batch_size}."
            )

    def gather(self, memory: Memory) -> Memory:
        """The memory of all rows, in their order, from each replica's; all processes call it."""
        if self._strategy is None:
            return memory
        return self._gathered(memory)

    def cut(self, memory: Memory, in_document) -> Memory:
        """Memory without what is older than `in_document`, int32 `[B]` of all rows."""
        if self._strategy is None:
            return memory._replace(valid=tf.minimum(memory.valid, in_document))
        return memory._replace(valid=self._lower(memory.valid, self.split(in_document)))

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process; all of them call it."""
        if not self.multi_worker:
            return flag
        return int(self._summed(tf.constant(int(flag)))) > 0

    def _gather(self, memory):
        return tf.nest.map_structure(lambda value: self._strategy.gather(value, 0), memory)

    def _minimum(self, valid, bounds):
        return self._strategy.run(tf.minimum, (valid, bounds))

    def _sum(self, number):
        everywhere = self._strategy.run(lambda: tf.identity(number))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, everywhere, axis=None)

    def wait(self):
        """Until all processes have come so far."""
        self.any(False)


def make_replicas(distribution: str, say: Callable[[str], None] | None = None) -> Replicas:
    """The replicas that `TrainConfig.distribution` means here.

    Call it before anything else of TensorFlow: the other processes are looked for at once, and
    waited for, of which `say` is told.

    Raises:
      ValueError: for "multi_worker" without a TF_CONFIG, or with a wrong one.
      OSError: if this worker cannot listen at its address there.
    """
    if distribution == "auto":
        workers = len(_workers()[0])
        many = len(tf.config.list_physical_devices("GPU")) > 1
        distribution = "multi_worker" if workers > 1 else "mirrored" if many else "one"
    if distribution == "one":
        return Replicas()
    if distribution == "mirrored":
        kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        return Replicas(tf.distribute.MirroredStrategy(devices))
    workers, index = _workers()
    if not workers:
        raise ValueError(
            "--distribution=multi_worker needs TF_CONFIG, with the addresses of all workers and "
            "this one's index. Received: none. The README has an example."
        )
    if say is not None and len(workers) > 1:
        say(f"waiting for all workers of TF_CONFIG: {', '.join(workers)}")
    meet(workers, index)
    return Replicas(tf.distribute.MultiWorkerMirroredStrategy())


def _workers() -> tuple[list[str], int]:
    """The workers' addresses in TF_CONFIG, none without one, and this one's place among them."""
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return [], 0
    try:
        config = json.loads(text)
        workers, index = config["cluster"]["worker"], config["task"]["index"]
        right = (
            isinstance(workers, list)
            and len(set(workers)) == len(workers)
            and all(isinstance(address, str) and host_and_port(address) for address in workers)
            and config["task"]["type"] == "worker"
            and 0 <= index < len(workers)
        )
    except (ValueError, KeyError, TypeError):
        right = False
    if not right or set(config["cluster"]) != {"worker"}:
        raise ValueError(
            'TF_CONFIG must be JSON such as {"cluster": {"worker": ["10.0.0.1:2222", '
            '"10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}, with the index of this '
            f"machine. Received: {text}."
        )
    return workers, index
