"""What the softmax heads must return: distributions, costs, gradients and decoding, in float64.

Written from the definitions, one token at a time; the distribution of an adaptive head is that of
`adaptive.py` beside this file, and `pytorch_log_prob` writes the same layer down a second time, in
PyTorch's parameterisation. Sources: Grave et al. (2017), "Efficient softmax approximation for
GPUs"; the documentation of torch.nn.AdaptiveLogSoftmaxWithLoss; Duffield et al. (2007), "Priority
sampling for estimation of arbitrary subset sums", and Kool et al. (2019), "Stochastic beams and
where to find them", for the sampled softmax; Szegedy et al. (2016), "Rethinking the Inception
architecture", section 7, for label smoothing; Holtzman et al. (2020), "The curious case of neural
text degeneration", for top-p.

Letters: T tokens, D model width, V vocabulary, C clusters, E width of one cluster's table. A *rank*
is an id's place in the head's own tables, commonest first; an *id* is what the caller says, and
`id_order[rank] = id`. Everything here takes and returns ids.
"""

import math
from typing import NamedTuple

import numpy as np

from tests.reference import adaptive

# Log-probabilities that agree to this many decimals are ties.
TIE_DECIMALS = 10


class Weights(NamedTuple):
    """The weights of an adaptive head, as `adaptive.log_prob` takes them, and its order of ids.

    A full softmax is one table and one bias; the heads of PyTorch's kind come from `from_pytorch`.
    """

    tables: list
    biases: list | None = None
    projections: list | None = None
    cluster_kernel: np.ndarray | None = None
    cluster_bias: np.ndarray | None = None
    id_order: np.ndarray | None = None

    @property
    def vocab_size(self):
        return sum(len(table) for table in self.tables)

    @property
    def order(self):
        return np.arange(self.vocab_size) if self.id_order is None else np.asarray(self.id_order)


class TopK(NamedTuple):
    log_probabilities: np.ndarray
    ids: np.ndarray


def from_pytorch(head_kernel, head_biases, projections, tables, id_order=None):
    """PyTorch's parameterisation as Weights: the head has no projection, the tails no biases.

    Args: head_kernel [shortlist + C - 1, D]; head_biases [shortlist + C - 1] or None; projections
    and tables: C each, the first one None.
    """
    num_clusters = len(tables)
    shortlist = len(head_kernel) - num_clusters + 1
    biases = cluster_bias = None
    if head_biases is not None:
        biases = [head_biases[:shortlist]] + [None] * (num_clusters - 1)
        cluster_bias = head_biases[shortlist:]
    tables = [head_kernel[:shortlist], *tables[1:]]
    projections = [None, *projections[1:]]
    return Weights(tables, biases, projections, head_kernel[shortlist:], cluster_bias, id_order)


def log_prob(hidden, weights):
    """Log-probability of every id: hidden [..., D] to [..., V]."""
    by_id = np.full((*np.shape(hidden)[:-1], weights.vocab_size), np.nan)
    by_rank = adaptive.log_prob(hidden, *weights[:5]) if by_id.size else by_id
    for rank, word in enumerate(weights.order):
        by_id[..., word] = by_rank[..., rank]
    return by_id


def pytorch_log_prob(hidden, head_kernel, head_biases, projections, tables):
    """The same distribution straight from PyTorch's parameterisation, for comparison; [T, V]."""
    rows = []
    for hidden_D in np.asarray(hidden, np.float64):
        logits = np.asarray(head_kernel, np.float64) @ hidden_D
        if head_biases is not None:
            logits = logits + head_biases
        head = np.exp(logits - logits.max())
        head = head / head.sum()
        probabilities = list(head[: len(head) - len(tables) + 1])
        for column, projection_ED, table_RE in zip(
            head[len(probabilities) :], projections[1:], tables[1:]
        ):
            inside = np.exp(np.float64(table_RE) @ (np.float64(projection_ED) @ hidden_D))
            probabilities.extend(column * inside / inside.sum())
        rows.append(np.log(probabilities))
    return np.array(rows)


def target_distribution(target, vocab_size, smoothing=0.0, ignore_index=None):
    """What a cost is measured against, [V]: eps / V everywhere, 1 - eps more at the target.

    All zeros for a target that is ignored.
    """
    wanted = np.zeros(vocab_size)
    if ignore_index is None or target != ignore_index:
        if not 0 <= target < vocab_size:
            raise IndexError(f"ids are from 0 to {vocab_size - 1}. Received: {target}")
        wanted += smoothing / vocab_size
        wanted[target] += 1.0 - smoothing
    return wanted


def nll(hidden, targets, weights, smoothing=0.0, ignore_index=None):
    """(1 - eps) * -log p(target) + eps * mean of -log p over all ids; 0 where ignored; [...]."""
    costs = []
    for row, target in zip(
        log_prob(hidden, weights).reshape(-1, weights.vocab_size), np.ravel(targets), strict=True
    ):
        wanted = target_distribution(target, weights.vocab_size, smoothing, ignore_index)
        costs.append(-sum(w * value for w, value in zip(wanted, row) if w))
    return np.array(costs, np.float64).reshape(np.shape(targets))


def nll_gradients(hidden, targets, upstream, weights, smoothing=0.0, ignore_index=None):
    """Gradients of sum(upstream * nll), derived by hand.

    With the wanted distribution q and the logits z of one softmax (the head's, or a tail's), whose
    columns want the share q_c of it in all: d cost / d z_c = (sum of q) * softmax(z)_c - q_c.

    Returns: adaptive.Gradients, each shaped like its argument; tables by rank.
    """
    none = [None] * len(weights.tables)
    lists = (weights.tables, weights.biases or none, weights.projections or none)
    tables, biases, projections = ([_float64(w) for w in ws] for ws in lists)
    kernel, cluster_bias = _float64(weights.cluster_kernel), _float64(weights.cluster_bias)
    hidden = _float64(hidden)
    result = adaptive.Gradients(
        np.zeros_like(hidden),
        *([_zeros_like(w) for w in ws] for ws in (tables, biases, projections)),
        *(_zeros_like(w) for w in (kernel, cluster_bias)),
    )
    hidden_TD = hidden.reshape(-1, hidden.shape[-1])
    gradient_TD = result.hidden.reshape(hidden_TD.shape)
    starts = np.cumsum([0] + [len(table) for table in tables])

    for token, (target, scale) in enumerate(
        zip(np.ravel(targets), np.ravel(upstream), strict=True)
    ):
        wanted = target_distribution(target, weights.vocab_size, smoothing, ignore_index)
        wanted = [wanted[word] for word in weights.order]  # by rank from here on
        shares = [np.array(wanted[a:b]) for a, b in zip(starts, starts[1:])]
        for cluster, table in enumerate(tables):
            share, rows, bias = shares[cluster], table, biases[cluster]
            if cluster == 0 and len(tables) > 1:
                share = np.append(share, [tail.sum() for tail in shares[1:]])
                rows = np.concatenate([table, kernel])
                offsets = [
                    np.zeros(len(r)) if b is None else b
                    for r, b in ((table, bias), (kernel, cluster_bias))
                ]
                bias = np.concatenate(offsets)
            projection = projections[cluster]
            state = hidden_TD[token] if projection is None else projection @ hidden_TD[token]
            logits = rows @ state + (0.0 if bias is None else bias)
            probabilities = np.exp(logits - logits.max())
            probabilities /= probabilities.sum()
            slopes = float(scale) * (share.sum() * probabilities - share)
            state_slopes = slopes @ rows

            own = len(table)
            result.tables[cluster][...] += np.outer(slopes[:own], state)
            if biases[cluster] is not None:
                result.biases[cluster][...] += slopes[:own]
            if own < len(slopes):
                result.cluster_kernel[...] += np.outer(slopes[own:], state)
                if cluster_bias is not None:
                    result.cluster_bias[...] += slopes[own:]
            if projection is None:
                gradient_TD[token] += state_slopes
            else:
                gradient_TD[token] += state_slopes @ projection
                result.projections[cluster][...] += np.outer(state_slopes, hidden_TD[token])
    return result


def falling(row):
    """Ids by falling log-probability, ties to the lower id: [V] to [V]."""
    return np.lexsort((np.arange(len(row)), -np.round(row, TIE_DECIMALS)))


def top_k(log_probabilities, k):
    """The k most likely ids of each row, sorted: [..., V] to TopK of [..., k]."""
    rows = log_probabilities.reshape(-1, log_probabilities.shape[-1])
    ids = np.array([falling(row)[:k] for row in rows], int).reshape(-1, k)
    best = np.take_along_axis(rows, ids, axis=-1)
    shape = (*log_probabilities.shape[:-1], k)
    return TopK(best.reshape(shape), ids.reshape(shape))


def predict(log_probabilities):
    """The most likely id, the lowest of them: [..., V] to [...]."""
    return top_k(log_probabilities, 1).ids[..., 0]


def filtered(row, temperature=1.0, top_k=None, top_p=None):
    """The probabilities [V] that `sample` draws from, out of log-probabilities [V].

    p ** (1 / temperature), renormalised; of that the top_k most likely ids, renormalised; of that,
    by falling probability, each id before which the others do not yet add up to top_p.
    """
    scaled = [value / temperature for value in row]
    powers = np.array([math.exp(value - max(scaled)) for value in scaled])
    probabilities = powers / powers.sum()
    order = falling(row)
    if top_k is not None:
        probabilities[order[top_k:]] = 0.0
        probabilities /= probabilities.sum()
    if top_p is not None:
        before = 0.0
        for word in order:
            share = probabilities[word]
            if before >= top_p:
                probabilities[word] = 0.0
            before += share
        probabilities /= probabilities.sum()
    return probabilities


def id_order_from_counts(counts):
    """Ids by falling count, ties to the lower id."""
    return np.array(sorted(range(len(counts)), key=lambda word: (-counts[word], word)), int)


def sampler_log_q(sampler, vocab_size, counts=None, id_order=None):
    """The sampler's distribution over ids, as logarithms [V].

    "log_uniform" is Zipf's law: q = log((rank + 2) / (rank + 1)) / log(V + 1), whichever id has
    the rank. "unigram" is in proportion to `counts`; none counts less than half of the smallest
    that is not 0.
    """
    if sampler == "uniform":
        return np.full(vocab_size, -math.log(vocab_size))
    if sampler == "log_uniform":
        log_q = np.zeros(vocab_size)
        for rank, word in enumerate(range(vocab_size) if id_order is None else id_order):
            log_q[word] = math.log(math.log((rank + 2) / (rank + 1)) / math.log(vocab_size + 1))
        return log_q
    least = min(count for count in counts if count > 0) / 2
    shares = [max(float(count), least) for count in counts]
    return np.array([math.log(share / sum(shares)) for share in shares])


def draw_candidates(log_q, num_sampled, random):
    """Candidates without replacement by Gumbel top-k, and each one's inclusion probability.

    Given kappa, the (num_sampled + 1)-th largest perturbed log q, a candidate s is among those
    above it with probability 1 - exp(-exp(log q_s - kappa)). Returns: two arrays [num_sampled].
    """
    perturbed = log_q - np.log(-np.log(random.random(len(log_q))))
    order = np.argsort(-perturbed)
    candidates = order[:num_sampled]
    if num_sampled == len(log_q):
        return candidates, np.ones(num_sampled)
    kappa = perturbed[order[num_sampled]]
    return candidates, 1.0 - np.exp(-np.exp(log_q[candidates] - kappa))


def sampled_nll(hidden_D, target, kernel, bias, candidates, inclusion):
    """Cost of one token and its gradients, given the candidates; kernel [V, D] by id.

    The partition function is exp(logit_target) + sum over candidates s other than the target of
    exp(logit_s) / inclusion_s. Returns: cost, d hidden [D], d kernel [V, D], d bias [V].
    """
    hidden_D, kernel = np.asarray(hidden_D, np.float64), np.asarray(kernel, np.float64)
    logits = {int(target): (kernel[target] @ hidden_D + bias[target], 0.0)}
    for s, probability in zip(candidates, inclusion, strict=True):
        if s != target:
            logits[int(s)] = (kernel[s] @ hidden_D + bias[s], math.log(probability))
    highest = max(logit - log_pi for logit, log_pi in logits.values())
    total = sum(math.exp(logit - log_pi - highest) for logit, log_pi in logits.values())
    log_partition = highest + math.log(total)
    slopes = np.zeros(len(kernel))
    for s, (logit, log_pi) in logits.items():
        slopes[s] = math.exp(logit - log_pi - log_partition) - (s == target)
    cost = log_partition - logits[int(target)][0]
    return cost, slopes @ kernel, np.outer(slopes, hidden_D), slopes


def _float64(value):
    return None if value is None else np.asarray(value, np.float64)


def _zeros_like(value):
    return None if value is None else np.zeros_like(value)
