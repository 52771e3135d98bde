"""The original PyTorch code's way to prepare words, written anew: for benchmarks/preparation.py.

  python benchmarks/preparation_peer.py TEXT

Every line is split and counted in a Counter; the words are sorted; the text is read again, every
word looked up in a dict, every line made a tensor, and the tensors joined. With torch where it is
installed, otherwise with NumPy. Prints one JSON object.
"""

import collections
import json
import sys
import time

try:
    import torch
except ModuleNotFoundError:
    torch = None
import numpy as np


def main(path):
    start = time.perf_counter()
    counter = collections.Counter()
    for words in lines(path):
        counter.update(words)
    ids = {}
    for word, _ in counter.most_common():
        ids[word] = len(ids)
    encoded = []
    for words in lines(path):
        symbols = []
        for word in words:
            symbols.append(ids[word])
        encoded.append(torch.LongTensor(symbols) if torch else np.array(symbols, np.int64))
    joined = torch.cat(encoded) if torch else np.concatenate(encoded)
    seconds = time.perf_counter() - start
    name = "torch" if torch else "numpy"
    print(json.dumps({"tokens": len(joined), "seconds": seconds, "arrays": name}))


def lines(path):
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield [*line.strip().split(), "<eos>"]


if __name__ == "__main__":
    main(sys.argv[1])
