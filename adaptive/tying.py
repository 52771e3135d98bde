"""When the weights of an embedding can be used by a softmax."""

from .embedding import AdaptiveEmbedding


def check_tie(head):
    """Refuses a tie that cannot hold.

    Args:
      head: a head with `tied_to`, the embedding or None; `bind_embeddings`, `bind_projections`
        and `projected`, a bool for each cluster; `clusters`, `widths` and `input_dim`.

    Raises:
      ValueError: if there is nothing to tie to, or it has another shape.
    """
    embedding = head.tied_to
    if embedding is None:
        if any(head.bind_embeddings) or any(head.bind_projections):
            raise ValueError(
                "bind_embeddings and bind_projections need the layer whose weights are to be "
                "used. Received: tied_to=None. Pass tied_to=<the AdaptiveEmbedding>."
            )
        return
    if not isinstance(embedding, AdaptiveEmbedding):
        raise ValueError(
            "tied_to must be the AdaptiveEmbedding whose weights are used. "
            f"Received: {embedding!r}."
        )
    for what, own, other in (
        ("clusters", head.clusters, embedding.clusters),
        ("cluster widths", head.widths, embedding.widths),
    ):
        if own != other:
            raise ValueError(
                f"An AdaptiveSoftmax and the embedding it is tied to must have the same {what}."
                f" Received: {own} here and {other} in the embedding."
            )
    for i, (bind, own) in enumerate(zip(head.bind_projections, head.projected)):
        if bind and own and not embedding.projected[i]:
            raise ValueError(
                f"Cluster {i} has a projection here and none in the embedding to bind it to. "
                "Give both layers the same force_projection, or leave this cluster out of "
                "bind_projections."
            )
        if bind and own and embedding.output_dim != head.input_dim:
            raise ValueError(
                "Binding projections needs hidden states as wide as the embedding's result. "
                f"Received: input_dim={head.input_dim} here, output_dim="
                f"{embedding.output_dim} in the embedding. Set bind_projections=False."
            )


def with_tied(own, bind, embedding, name):
    """The weights of each cluster: the embedding's where bound, its own elsewhere."""
    return tuple(getattr(embedding, name)[i] if bind[i] else one for i, one in enumerate(own))
