"""Downloads against a server on loopback, and archives that mean harm."""

import hashlib
import io
import os
import tarfile
import threading
import zipfile

import pytest

from data_utils import load_corpus
from data_utils.archives import unpack_tar, zip_names
from data_utils.corpora import REGISTRY
from data_utils.downloads import Download, DownloadError, fetch
from data_utils.loading import download_corpus
from tests.corpus_files import WIKI, all_lines, write
from tests.http_files import serving
from tests.look_alikes import DATA, WIKI_ZIP, download, member, publish, zip_of


@pytest.fixture
def served():
    with serving() as files:
        files.files["x.bin"] = DATA
        yield files


def files_in(folder) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.endswith(".lock"))


# What works ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "requests"),
    [("right", 1), ("redirect", 1), ("cut", 6), ("no_ranges", 2), ("busy", 2)],
)
def test_a_file_that_arrives(tmp_path, served, way, requests):
    messages = []
    path = fetch(download(served, way), tmp_path / "new", messages.append)
    assert path.read_bytes() == DATA
    assert files_in(path.parent) == ["x.bin"]
    assert served.requests[f"/{way}/x.bin"] == requests
    assert messages[-1] == "x.bin: downloaded and verified"
    asked = served.requests.total()
    assert fetch(download(served, way), path.parent) == path
    assert served.requests.total() == asked, "it was there already"


def test_a_cut_connection_goes_on_where_it_was(tmp_path, served):
    fetch(download(served, "cut"), tmp_path)
    starts = [int(value[6:-1]) for value in served.ranges[1:]]
    assert starts == [25_000, 37_500, 43_750, 46_875, 48_437]


def test_silence_counts_as_a_cut(tmp_path, served):
    messages = []
    path = fetch(download(served, "slow"), tmp_path, messages.append, timeout=0.3)
    assert path.read_bytes() == DATA
    assert served.ranges == [None, "bytes=25000-"]
    assert any("nothing came for 0.3 seconds after 25,000 bytes" in m for m in messages)


def test_a_later_call_goes_on(tmp_path, served):
    (tmp_path / "x.bin.partial").write_bytes(DATA[:30_000])
    assert fetch(download(served, "right"), tmp_path).read_bytes() == DATA
    assert served.ranges == ["bytes=30000-"]


@pytest.mark.parametrize("size", [10, 50_000, 60_000])
def test_a_partial_file_of_something_else_is_thrown_away(tmp_path, served, size):
    (tmp_path / "x.bin.partial").write_bytes(bytes(size))
    assert fetch(download(served, "right"), tmp_path).read_bytes() == DATA


def test_a_changed_file_is_got_again(tmp_path, served):
    (tmp_path / "x.bin").write_bytes(DATA[:-1] + b"?")
    with pytest.raises(DownloadError, match="404"):
        fetch(download(served, "404"), tmp_path)
    assert files_in(tmp_path) == ["x.bin"]  # Which may be all that its owner has.
    assert (tmp_path / "x.bin").read_bytes() == DATA[:-1] + b"?"
    assert fetch(download(served, "right"), tmp_path).read_bytes() == DATA


def test_two_at_the_same_time(tmp_path, served):
    threads = [
        threading.Thread(target=fetch, args=(download(served, "right"), tmp_path)) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "x.bin").read_bytes() == DATA
    assert served.requests.total() == 1


# What does not -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("403", "status 403 Forbidden"),
        ("404", "status 404 Not Found"),
        ("wrong", r"another file of 50,000 bytes \(its sha256 differs\)"),
        ("truncated", r"another file of 49,900 bytes \(its sha256 differs\)"),
        ("no_more", "the connection broke, 4 times; 49,900 bytes kept"),
        ("endless", "sends more than the 50,000 bytes"),
        ("file_redirect", "status 302"),
    ],
)
def test_the_next_mirror_is_tried_and_then_one_error_says_all(tmp_path, served, way, reason):
    path = fetch(download(served, way, "right"), tmp_path / "a")
    assert path.read_bytes() == DATA
    with pytest.raises(DownloadError, match=reason) as raised:
        fetch(download(served, way, "404"), tmp_path / "b")
    message = str(raised.value)
    assert message.startswith("x.bin could not be downloaded:")
    assert served.url(way, "x.bin") in message
    assert served.url("404", "x.bin") in message
    assert f"50,000 bytes, sha256 {hashlib.sha256(DATA).hexdigest()}" in message
    assert f"put it at {tmp_path / 'b' / 'x.bin'}" in message
    assert "x.bin" not in files_in(tmp_path / "b")


def test_no_network_and_no_room(tmp_path, served, monkeypatch):
    nobody = Download("x.bin", ("http://127.0.0.1:9/x.bin",), "0" * 64, 5)
    with pytest.raises(DownloadError, match="cannot be reached .*refused"):
        fetch(nobody, tmp_path)
    huge = Download("x.bin", (served.url("right", "x.bin"),), "0" * 64, 1 << 60)
    with pytest.raises(DownloadError, match="has room for .*: make room"):
        fetch(huge, tmp_path)
    assert served.requests.total() == 0


# Archives ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "C:/x", "..\\x"])
def test_a_zip_with_a_name_outside_of_it(tmp_path, name):
    path = write(tmp_path / "wikitext-2-v1.zip", zip_of({**WIKI_ZIP, name: "x"}))
    for data_dir in (path, tmp_path):
        with pytest.raises(ValueError, match="has a member outside of itself.*made to do harm"):
            load_corpus("wikitext2", data_dir)
    assert os.listdir(tmp_path) == ["wikitext-2-v1.zip"]


def test_a_zip_bomb(tmp_path):
    bomb = zip_of({**WIKI_ZIP, "wikitext-2/LICENSE": bytes(100 << 20)})
    path = write(tmp_path / "wikitext-2-v1.zip", bomb)
    assert path.stat().st_size < 200_000
    with pytest.raises(ValueError, match="would unpack .* bytes to 104,857,.*: no text does"):
        load_corpus("wikitext2", path)
    assert len(zip_names(write(tmp_path / "good.zip", zip_of(WIKI_ZIP)))) == 3


def test_a_zip_that_lies_about_sizes(tmp_path):
    """The directory says little, the member has much: reading stops at what was said."""
    data = bytearray(zip_of({f"enwik8/{'x' * 20}": b"y" * 1_000_000}))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (100).to_bytes(4, "little")
    corpus = load_corpus("enwik8", write(tmp_path / "enwik8.zip", bytes(data)))
    with pytest.raises(ValueError, match="cannot be unpacked"):
        list(corpus.sources["test"][0].blocks())


def tar_of(path, *members: tarfile.TarInfo):
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return path


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("../x")], "outside of itself"),
        ([member("/tmp/x")], "outside of itself"),
        ([member("a", 0, tarfile.SYMTYPE, "/etc"), member("a/x")], "that is no file"),
        ([member("a", 0, tarfile.LNKTYPE, "../x")], "that is no file"),
        ([member("a", 0, tarfile.FIFOTYPE)], "that is no file"),
        ([member("a", 90_000_000)], "unpacks to more than the 1,000"),
    ],
)
def test_tars_that_mean_harm(tmp_path, members, message):
    path = tar_of(tmp_path / "x.tar.gz", *members)
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match=message):
        unpack_tar(path, tmp_path / "in", 1000)
    assert sorted(os.listdir(tmp_path)) == ["in", "x.tar.gz"]
    assert not os.listdir(tmp_path / "in")


@pytest.mark.parametrize("damage", [lambda d: d[:60], lambda d: b"no tar", lambda d: b""])
def test_damaged_tars(tmp_path, damage):
    path = tar_of(tmp_path / "x.tar.gz", member("a", 500))
    path.write_bytes(damage(path.read_bytes()))
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="no tar archive that can be read"):
        unpack_tar(path, tmp_path / "in", 1000)


# Corpora -------------------------------------------------------------------------------------


@pytest.fixture
def look_alikes(served, monkeypatch):
    """Every corpus of the registry that can be downloaded, small, on the server."""
    return publish(served, monkeypatch)


@pytest.mark.parametrize(
    ("name", "train"),
    [
        ("wikitext2", [[], ["=", "A", "="], [], ["the", "cat", "<unk>", "the"]]),
        ("wikitext103", [[], ["=", "A", "="], [], ["the", "cat", "<unk>", "the"]]),
        ("ptb", [["a", "<unk>", "N"], ["b"]]),
        ("lm1b", [["c", "d"]] * 3 + [["e"]]),
        ("enwik8", None),
        ("text8", None),
        ("tinyshakespeare", None),
    ],
)
def test_every_corpus_is_downloaded(tmp_path, served, look_alikes, name, train):
    messages = []
    corpus = load_corpus(name, download_dir=tmp_path / "cache", progress=messages.append)
    assert corpus.splits == ("train", "valid", "test")
    assert any("status 403" in message for message in messages)
    if train is not None:
        assert all_lines(corpus)["train"] == train
    else:
        whole = b"".join(
            b"".join(s.blocks()) for split in corpus.splits for s in corpus.sources[split]
        )
        (file,) = [d.file for d in REGISTRY[name].downloads]
        data = look_alikes[file]
        if file.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                data = archive.read(name)
        assert whole == data
        sizes = [sum(s.num_bytes for s in corpus.sources[split]) for split in corpus.splits]
        assert sizes[0] == len(data) * 90 // 100
        assert abs(sizes[1] - sizes[2]) <= 1
    asked = served.requests.total()
    again = load_corpus(name, download_dir=tmp_path / "cache")
    assert again.fingerprint() == corpus.fingerprint()
    assert served.requests.total() == asked
    direct = load_corpus(name, download_corpus(name, tmp_path / "cache"))
    assert direct.fingerprint() == corpus.fingerprint()


def test_lm1b_has_other_lines_for_valid_and_test(tmp_path, look_alikes):
    corpus = load_corpus("lm1b", download_dir=tmp_path)
    assert all_lines(corpus)["valid"] == [["valid"]]
    assert all_lines(corpus)["test"] == [["test"]]
    assert corpus.has_sentences


def test_wikitext2_has_another_place(tmp_path, served, look_alikes, monkeypatch):
    files = {f"{split}.txt": text.encode() for split, text in WIKI.items()}
    served.files.update(files)
    entry = REGISTRY["wikitext2"]
    nothing = tuple(download(served, "404", name=d.file) for d in entry.downloads)
    monkeypatch.setitem(entry.__dict__, "downloads", nothing)
    with pytest.raises(DownloadError, match=r"wikitext-2-v1\.zip could not be downloaded"):
        load_corpus("wikitext2", download_dir=tmp_path / "a")
    others = tuple(download(served, "right", data=files[name], name=name) for name in files)
    monkeypatch.setitem(entry.__dict__, "alternatives", others)
    corpus = load_corpus("wikitext2", download_dir=tmp_path / "a")
    assert all_lines(corpus)["valid"] == [["the", "dog"], []]
