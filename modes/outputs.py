"""Where the modes that make one thing put it, and what they do not write over."""

import os

import flags
from transformer_xl.training.workdir import check_writable


def output_path(name: str) -> str:
    """--output, or else a name in --workdir.

    Raises:
      ValueError: if neither is given, or an empty one, which an unset variable of a script leaves.
    """
    if flags.OUTPUT.value == "":
        raise ValueError(
            "--output must be the name of what is written. Received: nothing. Leave the flag out "
            "for the default."
        )
    if flags.OUTPUT.value:
        return flags.OUTPUT.value
    if flags.WORKDIR.value:
        return os.path.join(flags.workdir(), name)
    raise ValueError(
        f"--mode={flags.MODE.value} needs --output, where to write, or --workdir, where it becomes "
        f"{name}."
    )


def output_file(name: str, source: str | None) -> str:
    """`output_path` of a file that may be written: one that is new, or the name in --workdir.

    Args:
      name: of the file in --workdir, where this mode may replace what it wrote before.
      source: the file that is read; None: there is none.

    Raises:
      ValueError: if neither is given.
      OSError: for a folder, another file that exists, the one that is read, or a place that cannot
        be written to.
    """
    output = output_path(name)
    if os.path.isdir(output):
        raise IsADirectoryError(
            f"--output must be the file of a page. Received: {output}, a folder. Name a file in it."
        )
    if source is not None and os.path.exists(output) and os.path.samefile(source, output):
        raise FileExistsError(
            f"The page must not replace the text that it is of. Received: {output} for both. Give "
            "another --output."
        )
    own = os.path.join(flags.WORKDIR.value, name) if flags.WORKDIR.value else None
    if os.path.lexists(output) and (own is None or _place(output) != _place(own)):
        raise FileExistsError(
            f"--output must be a file that is new. Received: {output}, which exists. Remove it, or "
            "name another."
        )
    check_output(os.path.dirname(output) or ".", output)
    return output


def check_output(folder: str, output: str):
    """Refuses a folder for `output` that cannot be written to, before anything is computed.

    Raises:
      OSError: if it cannot.
    """
    flag = "output" if flags.OUTPUT.value else "workdir"
    named = output if flags.OUTPUT.value else flags.WORKDIR.value
    check_writable(folder, f"--{flag}={named}", parts=())


def _place(path: str) -> str:
    # Of the name, not of what a link of this name leads to.
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
