"""Which array of a checkpoint fills which variables of the model, and in what layout.

Each format is a list of `Entry`s. Reading takes every array exactly once and fills nothing unless
all fit; writing follows the same list backwards.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """How one array holds the values of one or more variables.

    Attributes:
      split: (array, shapes of the variables) to the variables' values.
      join: the values to the array.
      shape: shapes of the variables to the array's shape.
    """

    split: Callable
    join: Callable
    shape: Callable


def _sections(shapes, axis):
    return np.cumsum([shape[axis] for shape in shapes])[:-1]


def _side_by_side(axis: int) -> Layout:
    """Variables that are cut from one array along an axis."""

    def shape(shapes):
        total = list(shapes[0])
        total[axis] = sum(one[axis] for one in shapes)
        return tuple(total)

    return Layout(
        split=lambda array, shapes: np.split(array, _sections(shapes, axis), axis),
        join=lambda values: np.concatenate(values, axis),
        shape=shape,
    )


def _the_same(values):
    if any(not np.array_equal(values[0], value) for value in values[1:]):
        raise ValueError("they are one weight there, and have come to differ here")
    return values[0]


def transposed(layout: Layout) -> Layout:
    """The same with the axes of the array in the other order."""
    return Layout(
        split=lambda array, shapes: layout.split(array.T, shapes),
        join=lambda values: layout.join(values).T,
        shape=lambda shapes: layout.shape(shapes)[::-1],
    )


ROWS = _side_by_side(0)
COLUMNS = _side_by_side(1)
SAME = ROWS  # of one variable
TRANSPOSED = transposed(SAME)
REVERSED_ROWS = Layout(
    split=lambda array, shapes: [array[::-1]],
    join=lambda values: values[0][::-1],
    shape=lambda shapes: shapes[0],
)
REPEATED = Layout(  # one array that several variables repeat
    split=lambda array, shapes: [array] * len(shapes),
    join=_the_same,
    shape=lambda shapes: shapes[0],
)
STACKED = Layout(  # one layer a row
    split=lambda array, shapes: list(array),
    join=np.stack,
    shape=lambda shapes: (len(shapes), *shapes[0]),
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of a checkpoint.

    Attributes:
      names: its name; further ones are those of its copies where weights are tied.
      variables: the variables it fills.
      layout: how it holds them.
    """

    names: tuple[str, ...]
    variables: tuple
    layout: Layout = SAME

    @property
    def shape(self) -> tuple[int, ...]:
        """What the array's must be."""
        return self.layout.shape(self._shapes)

    @property
    def _shapes(self):
        return [tuple(variable.shape) for variable in self.variables]

    def values(self, array):
        """The variables' values in an array."""
        return self.layout.split(array, self._shapes)

    def array(self):
        """The array that the variables' values make."""
        return self.layout.join([variable.numpy() for variable in self.variables])


def fill(
    entries: Iterable[Entry], arrays: Mapping[str, np.ndarray], where: str, copies: bool = False
):
    """Gives the variables the values of a checkpoint, all of them or none.

    Args:
      entries: of the format.
      arrays: by name.
      where: the checkpoint, for the message.
      copies: whether tied weights must stand there under each of their names; if not, one does.

    Raises:
      ValueError: if weights are missing, left over, of another shape or kind, not finite, or
        differ where they are tied; all of them are named.
    """
    left = dict(arrays)
    missing, unfit, differing, chosen = [], [], [], []
    for entry in entries:
        found = {name: left.pop(name) for name in entry.names if name in left}
        if not found or copies:
            missing += [name for name in entry.names if name not in found][: None if copies else 1]
        for name, array in found.items():
            if tuple(array.shape) != entry.shape or not _is_real(array):
                unfit.append(f"{name} is {_described(array)}, must be {entry.shape}")
        first, *others = found.items() if found else [(None, None)]
        for name, array in others:
            if array.shape == first[1].shape and not np.array_equal(array, first[1]):
                differing.append(f"{first[0]} and {name}")
        chosen.append((entry, first[1]))
    problems = [
        f"{said}: {', '.join(names)}."
        for said, names in (
            ("It lacks", missing),
            ("The model has no place for", sorted(left)),
            ("Of another shape or kind", unfit),
            ("Tied in the configuration, but not equal", differing),
        )
        if names
    ]
    if problems:
        raise ValueError(f"The weights in {where} do not fit the model. {' '.join(problems)}")
    check_finite(arrays, where)
    for entry, array in chosen:
        for variable, value in zip(entry.variables, entry.values(array)):
            variable.assign(np.asarray(value, np.float32))


def collect(entries: Iterable[Entry]) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint, by the first name of each.

    Raises:
      ValueError: if the format has one array for weights that differ.
    """
    arrays = {}
    for entry in entries:
        try:
            arrays[entry.names[0]] = np.ascontiguousarray(entry.array())
        except ValueError as error:
            paths = ", ".join(variable.path for variable in entry.variables)
            raise ValueError(f"{paths} cannot be written as {entry.names[0]}: {error}.") from error
    return arrays


def check_finite(arrays: Mapping[str, np.ndarray], where: str):
    """Refuses weights with a NaN or an infinity, by name.

    Args:
      arrays: of numbers, by name.
      where: the checkpoint, for the message.

    Raises:
      ValueError: if there are some, as float32 has them.
    """
    # An overflow is what is looked for: float64 may hold what float32 cannot.
    with np.errstate(over="ignore"):
        broken = [
            name
            for name, array in arrays.items()
            if not np.isfinite(np.asarray(array, np.float32)).all()
        ]
    if broken:
        raise ValueError(
            f"The weights in {where} must be finite. Received numbers that are not in: "
            f"{', '.join(broken)}. Take weights from before they diverged."
        )


def _is_real(array) -> bool:
    # Not by kind alone: bfloat16 is no number to NumPy.
    return array.dtype.name in ("float16", "bfloat16", "float32", "float64")


def _described(array) -> str:
    shape = tuple(array.shape)
    return str(shape) if _is_real(array) else f"{shape} of {array.dtype.name}"
