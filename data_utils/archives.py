"""Archives from elsewhere: nothing outside a folder is written, and no small file fills a disk."""

import tarfile
import zipfile
from pathlib import Path, PurePosixPath

# Deflated prose becomes 3 to 10 times smaller; 1,032 times is the most there can be.
_LARGEST_RATIO = 200
_ALWAYS_ALLOWED_BYTES = 16 << 20


def zip_names(path: Path) -> list[str]:
    """The names of the members of a zip archive.

    Raises ValueError where it is no zip, or has a member that is outside of it, or one that becomes
    implausibly large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path} is a file but not a zip that can be read ({error}). Get it again, or pass the "
            "folder that has the text files."
        ) from None
    for member in members:
        check_member(path, member.filename)
    packed = sum(member.compress_size for member in members)
    unpacked = sum(member.file_size for member in members)
    _check_size(path, packed, unpacked)
    return [member.filename for member in members]


def check_member(path: Path, name: str) -> None:
    """Raises ValueError for the name of a member that would be written outside of a folder."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or (parts.parts and ":" in parts.parts[0]):
        raise ValueError(
            f"{path} has a member outside of itself, {name!r}: it is damaged or made to do harm. "
            "Get it from another place."
        )


def unpack_tar(path: Path, folder: Path, largest_bytes: int) -> None:
    """Unpacks the files of a tar archive, compressed or not, into a folder.

    Links, devices and names outside of the folder are refused before anything of theirs is
    written.

    Args:
        path: the archive.
        folder: exists; may keep some of the files when this fails.
        largest_bytes: what all files may have together.

    Raises:
        ValueError: as above, more bytes than that, or no tar.
    """
    total = 0
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                check_member(path, member.name)
                if not (member.isfile() or member.isdir()):
                    raise ValueError(
                        f"{path} has a member that is no file, {member.name!r}: it is damaged or "
                        "made to do harm. Get it from another place."
                    )
                total += member.size
                if total > largest_bytes:
                    raise ValueError(
                        f"{path} unpacks to more than the {largest_bytes:,} bytes that it should: "
                        "it is damaged or made to do harm. Get it from another place."
                    )
                archive.extract(member, folder, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise ValueError(
            f"{path} is no tar archive that can be read ({error}). Get it again."
        ) from None


def _check_size(path: Path, packed: int, unpacked: int) -> None:
    if unpacked > max(_ALWAYS_ALLOWED_BYTES, _LARGEST_RATIO * packed):
        raise ValueError(
            f"{path} would unpack {packed:,} bytes to {unpacked:,}: no text does. It is damaged or "
            "made to do harm: get it from another place."
        )
