"""Small files that look like those of the registry, on a server of `http_files.py`."""

import hashlib
import io
import random
import tarfile
import zipfile

from data_utils.corpora import REGISTRY
from data_utils.downloads import Download
from tests.corpus_files import WIKI

DATA = random.Random(0).randbytes(50_000)


def download(served, *ways: str, data: bytes = DATA, name: str = "x.bin") -> Download:
    urls = tuple(served.url(way, name) for way in ways)
    return Download(name, urls, hashlib.sha256(data).hexdigest(), len(data))


def zip_of(files: dict[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


WIKI_ZIP = {f"wikitext-2/wiki.{split}.tokens": text for split, text in WIKI.items()}


def member(name, size=5, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def publish(served, monkeypatch) -> dict[str, object]:
    lm1b = io.BytesIO()
    folder = "1-billion-word-language-modeling-benchmark-r13output"
    with tarfile.open(fileobj=lm1b, mode="w:gz") as archive:
        for name, text in {
            "training-monolingual.tokenized.shuffled/news.en-00001-of-00100": "c d\n" * 3,
            "training-monolingual.tokenized.shuffled/news.en-00002-of-00100": "e\n",
            "heldout-monolingual.tokenized.shuffled/news.en.heldout-00000-of-00050": "test\n",
            "heldout-monolingual.tokenized.shuffled/news.en.heldout-00001-of-00050": "valid\n",
        }.items():
            info = member(f"{folder}/{name}", len(text))
            archive.addfile(info, io.BytesIO(text.encode()))
    contents = {
        "enwik8.zip": zip_of({"enwik8": "<a> é\n" * 50}),
        "text8.zip": zip_of({"text8": " anarchism originated" * 20}),
        f"{folder}.tar.gz": lm1b.getvalue(),
        "ptb.train.txt": b" a <unk> N \n b \n",
        "ptb.valid.txt": b" a \n",
        "ptb.test.txt": b" b b \n",
        "input.txt": b"First Citizen:\nBefore we proceed\n" * 5,
        "wikitext-2-v1.zip": zip_of(WIKI_ZIP),
        "wikitext-103-v1.zip": zip_of(
            {f"wikitext-103/wiki.{split}.tokens": text for split, text in WIKI.items()}
        ),
    }
    served.files.update(contents)
    for entry in REGISTRY.values():
        local = tuple(
            download(served, "403", "right", data=contents[d.file], name=d.file)
            for d in entry.downloads
        )
        monkeypatch.setitem(entry.__dict__, "downloads", local)
        monkeypatch.setitem(entry.__dict__, "alternatives", ())
    return contents
