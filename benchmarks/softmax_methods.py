"""The softmaxes that `benchmarks.softmax` compares, each behind the same few functions.

A method is built in a process of its own, in the interpreter that has its library: nothing of
TensorFlow, PyTorch or this project is imported before it is asked for. Every method has weights of
its own and takes the mean loss over the tokens; the exact ones start near `log V`.

T tokens of a step, D width of the hidden states, V vocabulary.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Callable

import numpy as np

OURS = ("full", "chunked", "adaptive", "sampled")
PEERS = ("torch", "keras_adaptive_softmax")
# With weights and hidden states in bfloat16: beside ours in mixed precision, where asked for.
TORCH_BFLOAT16 = "torch_bfloat16"


@dataclasses.dataclass(frozen=True)
class Case:
    """One method at one size; what a worker is told."""

    method: str
    vocab_size: int
    tokens: int
    hidden_dim: int
    cutoffs: tuple[int, ...]
    div_val: int
    num_sampled: int
    dtype: str = "float32"
    jit_compile: bool = False
    threads: int = 1
    zipf_exponent: float = 1.0
    seed: int = 1
    fit: bool = False

    def small(self) -> "Case":
        """The same method at a size that takes no time: it loads what the first step loads."""
        cutoffs = tuple(8 * (i + 1) for i in range(len(self.cutoffs)))
        return dataclasses.replace(
            self,
            vocab_size=8 * (len(cutoffs) + 1),
            tokens=8,
            cutoffs=cutoffs,
            num_sampled=4,
            fit=False,
        )


@dataclasses.dataclass(frozen=True)
class Method:
    """What can be asked of a method; each call takes int targets `[T]` and waits for the device."""

    forward: Callable  # targets -> loss; nothing is kept for gradients
    step: Callable  # targets -> loss, with the gradients of the hidden states and all weights
    parameters: int
    device: str
    fit: Callable | None = None  # (targets, steps) -> loss; weights are updated
    # () -> (bytes in use, the most since the last call), on a GPU; None on a CPU.
    gpu_memory: Callable | None = None


def zipf_probabilities(vocab_size: int, exponent: float):
    """The share of each id, float64 `[V]`: in proportion to `1 / rank**exponent`."""
    shares = np.arange(1, vocab_size + 1, dtype=np.float64) ** -exponent
    return shares / shares.sum()


def zipf_targets(vocab_size: int, tokens: int, exponent: float, seed):
    """Draws ids as words occur in text, id 0 the most often: int32 `[T]`."""
    ends = np.cumsum(zipf_probabilities(vocab_size, exponent))
    draws = np.random.default_rng(seed).random(tokens)
    # The last end may be a little below 1.
    return np.minimum(np.searchsorted(ends, draws), vocab_size - 1).astype(np.int32)


def hidden_states(case: Case):
    """What stands for the hidden states of a model: float32 `[T, D]`."""
    shape = (case.tokens, case.hidden_dim)
    return np.random.default_rng(case.seed).standard_normal(shape, np.float32)


def random_weight(shape, dtype=None, **kwargs):
    """An initializer, for Keras 3 as for Keras 2, whose memory is given back.

    TensorFlow keeps what it has once taken, and its own initializers take several times what the
    weight does: a first step would then seem to need none.
    """
    import tensorflow as tf

    weight = np.random.default_rng(1).standard_normal(tuple(shape), np.float32)
    weight *= 0.02
    return tf.convert_to_tensor(weight)


def load(case: Case) -> Callable:
    """Imports a method's library and gives it its threads.

    Args:
      case: of the method.

    Returns:
      The function from a `Case` to its `Method`.

    Raises:
      ImportError: if the library is not there.
    """
    if case.method in ("torch", TORCH_BFLOAT16):
        import torch

        torch.set_num_threads(case.threads)
        return _torch
    # The package is written for Keras 2, which TensorFlow offers under this switch.
    if case.method == "keras_adaptive_softmax":
        if importlib.util.find_spec("keras_adaptive_softmax") is None:
            raise ImportError("No module named 'keras_adaptive_softmax'")
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(case.threads)
    tf.config.threading.set_inter_op_parallelism_threads(case.threads)
    # PyTorch does not round the inputs of float32 products either, unless it is asked to.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for gpu in tf.config.list_physical_devices("GPU"):
        # The workers of a cell share the device.
        tf.config.experimental.set_memory_growth(gpu, True)
    if case.method == "keras_adaptive_softmax":
        import keras_adaptive_softmax  # noqa: F401 (so that its absence is seen here)

        return _keras_adaptive_softmax
    import keras

    import adaptive  # noqa: F401 (so that importing takes no part in the first step's memory)

    policy = "float32" if case.dtype == "float32" else f"mixed_{case.dtype}"
    keras.config.set_dtype_policy(policy)
    return {
        "full": _full,
        "chunked": _chunked,
        "adaptive": _adaptive,
        "sampled": _sampled,
    }[case.method]


def _initializers():
    return {"embeddings_initializer": random_weight, "kernel_initializer": random_weight}


def _full(case: Case) -> Method:
    """A Dense layer and Keras' cross-entropy from logits: what most models have."""
    import keras

    layer = keras.layers.Dense(case.vocab_size, kernel_initializer=random_weight)
    layer.build((None, case.hidden_dim))
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def loss(hidden, targets, training):
        return crossentropy(targets, layer(hidden))

    fit = None
    if case.fit:
        model = keras.Sequential([keras.Input((case.hidden_dim,)), layer])
        fit = _fit(case, model, loss=crossentropy)
    return _keras_method(case, layer, loss, fit)


def _chunked(case: Case) -> Method:
    """The same distribution as a Dense layer's, without ever forming `[T, V]` logits."""
    from adaptive import AdaptiveSoftmax

    sizes = case.hidden_dim, case.vocab_size
    return _head_method(case, AdaptiveSoftmax(*sizes, **_initializers()))


def _adaptive(case: Case) -> Method:
    from adaptive import AdaptiveSoftmax

    sizes = case.hidden_dim, case.vocab_size
    head = AdaptiveSoftmax(*sizes, cutoffs=case.cutoffs, div_val=case.div_val, **_initializers())
    return _head_method(case, head)


def _sampled(case: Case) -> Method:
    from adaptive import SampledSoftmax

    sampled = min(case.num_sampled, case.vocab_size)
    head = SampledSoftmax(
        sampled, case.vocab_size, case.hidden_dim, kernel_initializer=random_weight, seed=case.seed
    )
    # Elsewhere than in training its loss is the full softmax's.
    return _head_method(case, head, forward_training=True)


def _head_method(case, head, forward_training=False) -> Method:
    import keras

    from adaptive import SoftmaxModel

    head.build((None, case.hidden_dim))

    def loss(hidden, targets, training):
        training = training or forward_training
        loss = head.loss(hidden, targets, training=training, outside_xla=not case.jit_compile)
        return loss / case.tokens

    fit = None
    if case.fit:
        fit = _fit(case, SoftmaxModel(keras.layers.Identity(), head))
    return _keras_method(case, head, loss, fit)


def _keras_method(case, layer, loss, fit) -> Method:
    """A method of Keras 3."""
    weights = [variable.value for variable in layer.trainable_variables]
    return _tensorflow_method(case, loss, weights, layer.compute_dtype, fit)


def _tensorflow_method(case, loss, weights, dtype, fit=None) -> Method:
    import tensorflow as tf

    states = tf.cast(tf.constant(hidden_states(case)), dtype)

    @tf.function(autograph=False, jit_compile=case.jit_compile)
    def forward(hidden, targets):
        return loss(hidden, targets, False)

    # The gradients are results: TensorFlow computes nothing that is not asked for.
    @tf.function(autograph=False, jit_compile=case.jit_compile)
    def step(hidden, targets):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            value = loss(hidden, targets, True)
        return value, tape.gradient(value, [hidden, *weights])

    def run_forward(targets):
        return float(forward(states, tf.constant(targets)))

    def run_step(targets):
        value, gradients = step(states, tf.constant(targets))
        # A GPU hands results out before they are there.
        tf.test.experimental.sync_devices()
        del gradients
        return float(value)

    gpus = tf.config.list_physical_devices("GPU")
    device, gpu_memory = cpu_name(), None
    if gpus:
        device = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")

        def gpu_memory():
            found = tf.config.experimental.get_memory_info("GPU:0")
            tf.config.experimental.reset_memory_stats("GPU:0")
            return found["current"], found["peak"]

    parameters = sum(int(np.prod(weight.shape)) for weight in weights)
    return Method(run_forward, run_step, parameters, device, fit, gpu_memory)


def _fit(case, model, **compiled):
    """Steps of Keras' own `fit`, on one batch again and again, with plain SGD."""
    import keras
    import tensorflow as tf

    optimizer = keras.optimizers.SGD(1e-3)
    model.compile(optimizer=optimizer, jit_compile=case.jit_compile, **compiled)
    states = hidden_states(case)

    def fit(targets, steps):
        dataset = tf.data.Dataset.from_tensors((states, targets)).repeat()
        history = model.fit(dataset, steps_per_epoch=steps, shuffle=False, verbose=0)
        return float(history.history["loss"][-1])

    return fit


def _keras_adaptive_softmax(case: Case) -> Method:
    """keras-adaptive-softmax as its README has it, with tables of its own instead of bound ones."""
    import tensorflow as tf
    from keras_adaptive_softmax import AdaptiveSoftmax

    layer = AdaptiveSoftmax(
        case.hidden_dim,
        case.vocab_size,
        cutoffs=list(case.cutoffs),
        div_val=case.div_val,
        **_initializers(),
    )

    def loss(hidden, targets, training):
        # It takes sequences, in a list whose further elements would be the bound tensors.
        probabilities = layer([hidden[None]])
        crossentropy = tf.keras.losses.sparse_categorical_crossentropy
        return tf.reduce_mean(crossentropy(targets[None], probabilities))

    layer.build([(None, None, case.hidden_dim)])
    return _tensorflow_method(case, loss, list(layer.trainable_variables), "float32")


def _torch(case: Case) -> Method:
    """PyTorch's own layer, as it comes: eager, without biases in the head."""
    import torch

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    dtype = torch.bfloat16 if case.method == TORCH_BFLOAT16 else torch.float32
    layer = torch.nn.AdaptiveLogSoftmaxWithLoss(
        case.hidden_dim, case.vocab_size, list(case.cutoffs), div_value=float(case.div_val)
    ).to(device, dtype)
    states = torch.from_numpy(hidden_states(case)).to(device, dtype).requires_grad_()
    weights = list(layer.parameters())

    def on_device(targets):
        return torch.from_numpy(targets).to(device, torch.int64)

    def forward(targets):
        with torch.no_grad():
            return float(layer(states, on_device(targets)).loss)

    def step(targets):
        value = layer(states, on_device(targets)).loss
        # A tail that no target is in takes no part.
        torch.autograd.grad(value, [states, *weights], allow_unused=True)
        if cuda:
            torch.cuda.synchronize()
        return float(value.detach())

    def gpu_memory():
        found = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return found

    name = torch.cuda.get_device_name() if cuda else cpu_name()
    parameters = sum(weight.numel() for weight in weights)
    return Method(forward, step, parameters, name, None, gpu_memory if cuda else None)


def cpu_name() -> str:
    """The processor, as Linux names it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return " ".join(names[0].split()) if names else "CPU"
