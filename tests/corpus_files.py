"""Small corpora on disk, for the tests of data_utils."""

import random
import zipfile
from pathlib import Path

WIKI = {
    "train": " \n = A = \n \n the cat <unk> the\n",
    "valid": " the dog \n\n",
    "test": " a cat ran \n",
}
WIKI_LINES = [[], ["=", "A", "="], [], ["the", "cat", "<unk>", "the"]]
# What text may be made of, to draw from.
PIECES = [
    *"ab .,",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\0",
    "\x1c",
    "\x85",
    "\xa0",
    "\u2028",
    "\u3000",
    "\ufeff",
    "é",
    "e\u0301",
    "\u05e9\u05dc\u05d5\u05dd",
    "\u202e",
    "😀",
    "👩\u200d👧",
    "\u2581",
    "<eos>",
    "<unk>",
    "Ab",
    "İ",
    "ΑΣ ",
    "\t",
]


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


def random_text(generator: random.Random, most: int) -> str:
    return "".join(generator.choices(PIECES, k=generator.randrange(1, most)))
