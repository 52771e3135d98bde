"""Text of any dataset of TensorFlow Datasets: `tfds:<name>/<config>:<feature>`."""

import dataclasses
import functools
import os
from collections.abc import Iterator

_VALID = ("validation", "valid", "dev")
_LARGEST_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """The examples of one split, in the dataset's order, each ended by a line end."""

    dataset: str
    split: str
    feature: str
    data_dir: str | None

    start = 0

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"tfds:{self.dataset}:{self.feature} ({self.split})"

    @property
    def num_bytes(self) -> int:
        """A guess."""
        return _builder(self.dataset, self.data_dir).info.splits[self.split].num_bytes

    def blocks(self) -> Iterator[bytes]:
        """Their bytes, in blocks of no particular size."""
        examples = _builder(self.dataset, self.data_dir).as_dataset(
            split=self.split, shuffle_files=False
        )
        gathered = bytearray()
        for example in examples.as_numpy_iterator():
            text = example[self.feature]
            gathered += text
            if not text.endswith(b"\n"):
                gathered += b"\n"
            if len(gathered) >= _LARGEST_BYTES:
                yield bytes(gathered)
                gathered.clear()
        if gathered:
            yield bytes(gathered)


def find_tfds(name: str, data_dir: str | os.PathLike | None) -> dict[str, tuple[TfdsSource, ...]]:
    """The splits of a dataset; where it has no validation split, a part of train becomes one.

    Args:
        name: `tfds:<name>`, `tfds:<name>/<config>`, and, behind another colon, the feature that is
            the text; by default the only one that is text.
        data_dir: of TensorFlow Datasets; None: its own.

    Raises:
        ValueError: unknown dataset or feature, no split train.
    """
    dataset, _, feature = name.removeprefix("tfds:").partition(":")
    if not dataset:
        raise ValueError(f"A dataset is named tfds:<name>/<config>:<feature>. Received: {name!r}.")
    data_dir = None if data_dir is None else os.fspath(data_dir)
    builder = _builder(dataset, data_dir)
    feature = _text_feature(builder, feature)
    splits = set(builder.info.splits)
    if "train" not in splits:
        raise ValueError(
            f"A corpus needs a split train. {dataset} has {', '.join(sorted(splits)) or 'none'}."
        )
    chosen = {"train": "train"}
    valid = next((split for split in _VALID if split in splits), None)
    if valid:
        chosen["valid"] = valid
    else:
        chosen = {"train": "train[:95%]", "valid": "train[95%:]"}
    if "test" in splits:
        chosen["test"] = "test"
    return {
        split: (TfdsSource(dataset, instruction, feature, data_dir),)
        for split, instruction in chosen.items()
    }


def _text_feature(builder, feature: str) -> str:
    import tensorflow as tf

    features = builder.info.features
    texts = [name for name, kind in features.items() if kind.dtype == tf.string and not kind.shape]
    if feature and feature not in texts:
        raise ValueError(
            f"{builder.info.full_name} has the text features {', '.join(texts) or '(none)'}. "
            f"Received: {feature!r}."
        )
    if not feature and len(texts) != 1:
        raise ValueError(
            f"Say which feature of {builder.info.full_name} is the text, behind a colon: one of "
            f"{', '.join(texts) or '(none)'}."
        )
    return feature or texts[0]


@functools.cache
def _builder(dataset: str, data_dir: str | None):
    """The dataset, prepared. Raises ValueError where it is unknown or cannot be prepared."""
    # Here, and not above: processes of a preparation do without TensorFlow.
    import tensorflow_datasets as tfds

    from . import builders  # noqa: F401, registers ours

    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
        builder.download_and_prepare()
    except tfds.core.registered.DatasetNotFoundError as error:
        raise ValueError(
            f"TensorFlow Datasets has no dataset {dataset!r}: {str(error).splitlines()[0]}"
        ) from None
    except (ValueError, AssertionError, OSError) as error:
        raise ValueError(f"The dataset {dataset} cannot be prepared: {error}") from error
    return builder
