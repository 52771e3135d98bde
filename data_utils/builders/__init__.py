"""Builders for TensorFlow Datasets of the corpora that it lacks.

After `import data_utils.builders`, `tfds.load("wikitext103", data_dir=...)` works, and so do
`wikitext2`, `ptb`, `enwik8` and `text8`. What is needed is downloaded, or read from `manual_dir`.
"""

from .text_builders import Enwik8, Ptb, Text8, Wikitext2, Wikitext103

__all__ = ["Enwik8", "Ptb", "Text8", "Wikitext2", "Wikitext103"]
