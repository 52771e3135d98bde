"""Where the modes that make one thing put it."""

import os

import flags


def output_path(name: str) -> str:
    """--output, or else a name in --workdir.

    Raises:
      ValueError: if neither is given.
    """
    if flags.OUTPUT.value:
        return flags.OUTPUT.value
    if flags.WORKDIR.value:
        return os.path.join(flags.workdir(), name)
    raise ValueError(
        f"--mode={flags.MODE.value} needs --output, where to write, or --workdir, where it becomes "
        f"{name}."
    )
