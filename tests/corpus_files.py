"""Small corpora on disk, for the tests of data_utils."""

import zipfile
from pathlib import Path

WIKI = {
    "train": " \n = A = \n \n the cat <unk> the\n",
    "valid": " the dog \n\n",
    "test": " a cat ran \n",
}
WIKI_LINES = [[], ["=", "A", "="], [], ["the", "cat", "<unk>", "the"]]


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


def write_wiki(folder: Path, layout="wiki.{}.tokens", train=WIKI["train"]) -> Path:
    for split, text in {**WIKI, "train": train}.items():
        write(folder / layout.format(split), text)
    return folder


def write_zip(path: Path, layout: str, text=WIKI) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for split in text:
            archive.writestr(layout.format(split), text[split])
    return path


def all_lines(corpus) -> dict[str, list[list[str]]]:
    return {split: list(corpus.lines(split)) for split in corpus.splits}


def words(corpus, split: str) -> str:
    return " ".join(token for line in corpus.lines(split) for token in line)
