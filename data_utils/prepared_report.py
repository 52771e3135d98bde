"""What `--mode=prepare` prints of a prepared corpus."""

from collections.abc import Sequence

import numpy as np

from .prepared import PreparedCorpus


def preparation_report(prepared: PreparedCorpus, cutoffs: Sequence[int] = ()) -> str:
    """Tokens, types, unknown tokens, bytes per token, documents, and the coverage of clusters.

    Args:
        prepared: the corpus.
        cutoffs: rising ids where clusters of the vocabulary begin.

    Raises ValueError for cutoffs that are not inside the vocabulary.
    """
    size = prepared.vocabulary.size
    edges = [0, *cutoffs, size]
    if any(a >= b for a, b in zip(edges, edges[1:])):
        raise ValueError(
            f"Cutoffs rise, between 1 and {size - 1}. Received: {', '.join(map(str, cutoffs))}."
        )
    dtype = next(iter(prepared.arrays.values())).dtype
    lines = [
        f"{prepared.name}: {size:,} types of kind {prepared.kind}, ids of {dtype}, "
        f"fingerprint {prepared.fingerprint[:16]}",
        "",
        f"{'split':8}{'tokens':>15}{'types':>10}{'unknown':>10}{'bytes/token':>13}"
        f"{'tokens/word':>13}{'documents':>12}",
    ]
    of_clusters = {}
    for split, array in prepared.arrays.items():
        counts = token_counts(array, size)
        tokens = len(array)
        lines.append(
            f"{split:8}{tokens:15,}{np.count_nonzero(counts):10,}"
            f"{prepared.num_unknown[split] / tokens:10.2%}"
            f"{prepared.num_source_bytes[split] / tokens:13.3f}"
            f"{tokens / max(prepared.num_words[split], 1):13.3f}"
            f"{len(prepared.documents[split]):12,}"
        )
        of_clusters[split] = [counts[a:b].sum() / tokens for a, b in zip(edges, edges[1:])]
    lines += [
        "",
        f"{'cluster':9}{'ids':>22}{'types':>10}" + "".join(f"{s:>9}" for s in of_clusters),
    ]
    for i, (a, b) in enumerate(zip(edges, edges[1:])):
        shares = "".join(f"{shares[i]:9.2%}" for shares in of_clusters.values())
        name = "head" if not i else f"tail {i}"
        lines.append(f"{name:9}{f'{a:,} to {b - 1:,}':>22}{b - a:10,}{shares}")
    return "\n".join(lines)


def token_counts(array, size: int) -> np.ndarray:
    """How often each id occurs, int64 `[size]`; the array is read block by block."""
    counts = np.zeros(size, np.int64)
    for start in range(0, len(array), 1 << 22):
        counts += np.bincount(array[start : start + (1 << 22)], minlength=size)
    return counts
