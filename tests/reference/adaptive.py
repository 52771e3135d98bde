"""Adaptive input and adaptive softmax, one token and one word at a time.

Written from Grave et al. (2017), "Efficient softmax approximation for GPUs", and Baevski & Auli
(2019), "Adaptive input representations for neural language modeling". Everything is float64 and
loops, so that a mistake in the fast code cannot be repeated here.

Letters: T tokens, D model width, V vocabulary, C clusters, E_i width of cluster i, size_i its
number of words. The same arguments everywhere:

    tables          C arrays [size_i, E_i]; the words of cluster i are the rows of table i, in order
    biases          C arrays [size_i] (or None each), or None: no biases
    projections     C arrays [E_i, D] (or None each), or None: none, which needs E_i = D
    cluster_kernel  [C - 1, E_0]; None with one cluster
    cluster_bias    [C - 1], or None

The head's softmax runs over the shortlist (the words of cluster 0) and C - 1 more columns: column
shortlist + i - 1 stands for tail i, and log p(word) = log p(that column) + log p(word | tail i).
"""

import math
from typing import NamedTuple

import numpy as np


class Gradients(NamedTuple):
    """Gradients of sum(weights * nll), each shaped like its argument; None where that is None."""

    hidden: np.ndarray
    tables: list
    biases: list
    projections: list
    cluster_kernel: np.ndarray | None
    cluster_bias: np.ndarray | None


class _Parameters(NamedTuple):
    """The arguments as float64, with lists of None in the place of a missing list."""

    tables: list
    biases: list
    projections: list
    cluster_kernel: np.ndarray | None
    cluster_bias: np.ndarray | None


def embed(ids, tables, projections=None):
    """Looks each id up in its cluster's table and projects it; no scaling.

    Args: ids, integers of any shape [...]. Returns: [..., D].
    """
    parameters = _parameters(tables, None, projections, None, None)
    vectors = []
    for word in np.ravel(ids):
        cluster, row = _locate(int(word), parameters.tables)
        vector_E = parameters.tables[cluster][row]
        projection_ED = parameters.projections[cluster]
        vectors.append(vector_E if projection_ED is None else vector_E @ projection_ED)
    return np.array(vectors).reshape(*np.shape(ids), -1)


def log_prob(hidden, tables, biases=None, projections=None, cluster_kernel=None, cluster_bias=None):
    """Log-probabilities of the whole vocabulary: hidden [..., D] to [..., V]."""
    parameters = _parameters(tables, biases, projections, cluster_kernel, cluster_bias)
    hidden = np.asarray(hidden, np.float64)
    rows = []
    for hidden_D in hidden.reshape(-1, hidden.shape[-1]):
        head = _log_softmax(_head_logits(hidden_D, parameters))
        shortlist = len(parameters.tables[0])
        row = head[:shortlist]
        for cluster in range(1, len(parameters.tables)):
            tail = _log_softmax(_tail_logits(hidden_D, cluster, parameters))
            row = row + [head[shortlist + cluster - 1] + inside for inside in tail]
        rows.append(row)
    return np.array(rows).reshape(*hidden.shape[:-1], -1)


def nll(
    hidden, targets, tables, biases=None, projections=None, cluster_kernel=None, cluster_bias=None
):
    """Negative log-likelihood of each target: hidden [..., D], targets [...] to [...]."""
    parameters = _parameters(tables, biases, projections, cluster_kernel, cluster_bias)
    hidden = np.asarray(hidden, np.float64)
    costs = []
    for hidden_D, target in zip(
        hidden.reshape(-1, hidden.shape[-1]), np.ravel(targets), strict=True
    ):
        cluster, row = _locate(int(target), parameters.tables)
        head = _log_softmax(_head_logits(hidden_D, parameters))
        if cluster == 0:
            costs.append(-head[row])
        else:
            tail = _log_softmax(_tail_logits(hidden_D, cluster, parameters))
            costs.append(-head[len(parameters.tables[0]) + cluster - 1] - tail[row])
    return np.array(costs).reshape(np.shape(targets))


def nll_gradients(
    hidden,
    targets,
    weights,
    tables,
    biases=None,
    projections=None,
    cluster_kernel=None,
    cluster_bias=None,
):
    """Gradients of sum(weights * nll), derived by hand.

    Where an argument is also used elsewhere (tables and projections tied to an embedding), this is
    the head's share only.

    Args: hidden [..., D]; targets and weights [...]. Returns: Gradients.
    """
    parameters = _parameters(tables, biases, projections, cluster_kernel, cluster_bias)
    hidden = np.asarray(hidden, np.float64)
    gradients = Gradients(np.zeros_like(hidden), *(_zeros_like(value) for value in parameters))
    # Views, so that adding to a row adds to the result.
    hidden_TD = hidden.reshape(-1, hidden.shape[-1])
    gradient_TD = gradients.hidden.reshape(hidden_TD.shape)
    shortlist = len(parameters.tables[0])

    costs = zip(np.ravel(targets), np.ravel(weights), strict=True)
    for token, (target, weight) in enumerate(costs):
        hidden_D, weight = hidden_TD[token], float(weight)
        cluster, row = _locate(int(target), parameters.tables)

        head_logits = _head_logits(hidden_D, parameters)
        head_target = row if cluster == 0 else shortlist + cluster - 1
        slopes = _logit_gradients(head_logits, head_target, weight)
        state_E = _project(hidden_D, parameters.projections[0])
        state_gradient_E = np.zeros_like(state_E)
        for column, slope in enumerate(slopes):
            if column < shortlist:
                state_gradient_E += slope * parameters.tables[0][column]
                gradients.tables[0][column] += slope * state_E
                if gradients.biases[0] is not None:
                    gradients.biases[0][column] += slope
            else:
                tail = column - shortlist
                state_gradient_E += slope * parameters.cluster_kernel[tail]
                gradients.cluster_kernel[tail] += slope * state_E
                if gradients.cluster_bias is not None:
                    gradients.cluster_bias[tail] += slope
        _add_projected(0, hidden_D, state_gradient_E, gradient_TD[token], parameters, gradients)

        if cluster > 0:
            tail_logits = _tail_logits(hidden_D, cluster, parameters)
            slopes = _logit_gradients(tail_logits, row, weight)
            state_E = _project(hidden_D, parameters.projections[cluster])
            state_gradient_E = np.zeros_like(state_E)
            for word, slope in enumerate(slopes):
                state_gradient_E += slope * parameters.tables[cluster][word]
                gradients.tables[cluster][word] += slope * state_E
                if gradients.biases[cluster] is not None:
                    gradients.biases[cluster][word] += slope
            _add_projected(
                cluster, hidden_D, state_gradient_E, gradient_TD[token], parameters, gradients
            )
    return gradients


def _add_projected(cluster, hidden_D, state_gradient_E, gradient_D, parameters, gradients):
    """Adds the gradient of a cluster's state to the hidden state's and the projection's."""
    projection_ED = parameters.projections[cluster]
    if projection_ED is None:
        gradient_D += state_gradient_E
        return
    for width in range(len(state_gradient_E)):
        gradient_D += state_gradient_E[width] * projection_ED[width]
        gradients.projections[cluster][width] += state_gradient_E[width] * hidden_D


def _logit_gradients(logits, target, weight):
    """d(weight * nll) / d(logit): weight * (probability - 1 at the target)."""
    slopes = []
    for column, value in enumerate(_log_softmax(logits)):
        slopes.append(weight * (math.exp(value) - (1.0 if column == target else 0.0)))
    return slopes


def _head_logits(hidden_D, parameters):
    """Logits of the shortlist's words, then of the tails' columns."""
    state_E = _project(hidden_D, parameters.projections[0])
    logits = _logits(state_E, parameters.tables[0], parameters.biases[0])
    if len(parameters.tables) > 1:
        logits += _logits(state_E, parameters.cluster_kernel, parameters.cluster_bias)
    return logits


def _tail_logits(hidden_D, cluster, parameters):
    """Logits of one tail's words."""
    state_E = _project(hidden_D, parameters.projections[cluster])
    return _logits(state_E, parameters.tables[cluster], parameters.biases[cluster])


def _project(hidden_D, projection_ED):
    """The hidden state at a cluster's own width: the projection transposed, width by width."""
    if projection_ED is None:
        return hidden_D
    return np.array([np.dot(row_D, hidden_D) for row_D in projection_ED])


def _logits(state_E, kernel_RE, bias_R):
    """One logit for each row of the kernel, as a list."""
    logits = []
    for row in range(len(kernel_RE)):
        offset = 0.0 if bias_R is None else float(bias_R[row])
        logits.append(float(np.dot(kernel_RE[row], state_E)) + offset)
    return logits


def _log_softmax(logits):
    """Log-probabilities of a list of logits."""
    highest = max(logits)
    total = math.fsum(math.exp(value - highest) for value in logits)
    return [value - highest - math.log(total) for value in logits]


def _locate(word, tables):
    """The cluster of a word and its row in that cluster's table."""
    if word < 0:
        raise IndexError(f"ids start at 0. Received: {word}")
    first = 0
    for cluster, table in enumerate(tables):
        if word < first + len(table):
            return cluster, word - first
        first += len(table)
    raise IndexError(f"ids must be below the vocabulary size {first}. Received: {word}")


def _parameters(tables, biases, projections, cluster_kernel, cluster_bias):
    missing = [None] * len(tables)
    return _Parameters(
        [_float64(table) for table in tables],
        [_float64(bias) for bias in (missing if biases is None else biases)],
        [_float64(projection) for projection in (missing if projections is None else projections)],
        _float64(cluster_kernel),
        _float64(cluster_bias),
    )


def _float64(value):
    return None if value is None else np.asarray(value, np.float64)


def _zeros_like(value):
    if isinstance(value, list):
        return [_zeros_like(item) for item in value]
    return None if value is None else np.zeros_like(value)
