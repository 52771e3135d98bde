"""How a softmax uses the weights of an embedding: by its layer, or by tensors it returned."""

import keras

from .embedding import AdaptiveEmbedding


def check_tie(head):
    """Refuses a tie that cannot hold.

    Args:
      head: a head with `tied_to`, the embedding or None; `bind_embeddings`, `bind_projections`
        and `projected`, a bool for each cluster; `clusters`, `widths`, `id_order` and `input_dim`.

    Raises:
      ValueError: if the layer to tie to has another shape.
    """
    embedding = head.tied_to
    if embedding is None:
        return
    if not isinstance(embedding, AdaptiveEmbedding):
        raise ValueError(
            "tied_to must be the AdaptiveEmbedding whose weights are used. "
            f"Received: {embedding!r}."
        )
    for what, own, other in (
        ("clusters", head.clusters, embedding.clusters),
        ("cluster widths", head.widths, embedding.widths),
        ("id_order", head.id_order, embedding.id_order),
    ):
        if own != other:
            raise ValueError(
                f"An AdaptiveSoftmax and the embedding it is tied to must have the same {what}."
                f" Received: {own} here and {other} in the embedding. Give both layers the same."
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


def check_one_table(embedding, num_classes: int, width: int | None):
    """Refuses an embedding whose one table cannot be a softmax's kernel `[V, D]`.

    Args:
      embedding: the layer.
      num_classes: V.
      width: D; None where not known yet.

    Raises:
      ValueError: if it is no such layer, or its table has another shape.
    """
    if isinstance(embedding, AdaptiveEmbedding):
        plain = embedding.clusters.num_clusters == 1 and not any(embedding.projected)
        if not plain or embedding.id_order.ids is not None:
            raise ValueError(
                "A SampledSoftmax can be tied to an AdaptiveEmbedding with one table only: "
                "without cutoffs, projection and id_order. Received: "
                f"cutoffs={list(embedding.cutoffs)}, projections={list(embedding.projected)}, "
                f"id_order {'none' if embedding.id_order.ids is None else 'given'}."
            )
    elif not isinstance(embedding, keras.layers.Embedding):
        raise ValueError(
            "tied_to must be a keras.layers.Embedding or an AdaptiveEmbedding. "
            f"Received: {embedding!r}."
        )
    shape = (embedding.input_dim, embedding.output_dim)
    if shape[0] != num_classes or width not in (None, shape[1]):
        raise ValueError(
            "A softmax can be tied to an embedding of as many ids and the same width. "
            f"Received: num_classes={num_classes}, hidden states of width {width}; an embedding "
            f"of {shape[0]} ids and width {shape[1]}."
        )


def with_tied(own, bind, embedding, name):
    """The weights of each cluster: the embedding's where bound, its own elsewhere.

    Raises:
      ValueError: if there is no embedding to bind to.
    """
    if embedding is None and any(bind):
        raise ValueError(
            f"bind_embeddings and bind_projections need the embedding whose {name} are to be used."
            " Received: no tied_to, and no tensors in this call. Pass "
            "tied_to=<the AdaptiveEmbedding>; or, in a functional model, call the layer with "
            "[hidden, *tables] as returned by AdaptiveEmbedding(return_embeddings=True, "
            "return_projections=True)."
        )
    return tuple(getattr(embedding, name)[i] if bind[i] else one for i, one in enumerate(own))


def bound_tensors(head, given):
    """The tables and projections of a call that was given an embedding's tensors.

    Args:
      head: an `AdaptiveSoftmax` without `tied_to`, built or not.
      given: the tensors after the hidden states: C tables, C projections, or both in this order.

    Returns:
      The pair (C tables, C projections or None each), the head's own where not bound.

    Raises:
      ValueError: if they are not what is to be bound.
    """
    count = head.clusters.num_clusters
    bind_projections = [bind and has for bind, has in zip(head.bind_projections, head.projected)]
    wanted = {"tables": any(head.bind_embeddings), "projections": any(bind_projections)}
    # Whoever returns both and binds one may pass both.
    kinds = list(wanted) if len(given) == 2 * count else [kind for kind in wanted if wanted[kind]]
    if head.tied_to is not None or len(given) != len(kinds) * count:
        raise ValueError(
            f"{head.name} must be called with hidden states and, without tied_to, with "
            f"{count} tensors for each of {[kind for kind in wanted if wanted[kind]]}, as its "
            "bind_embeddings and bind_projections ask. Received: "
            f"{len(given)} tensors after the hidden states"
            + (", and tied_to." if head.tied_to is not None else ".")
        )
    parts = {kind: given[i * count : (i + 1) * count] for i, kind in enumerate(kinds)}
    shapes = {
        "tables": tuple(zip(head.clusters.sizes, head.widths)),
        "projections": tuple((width, head.input_dim) for width in head.widths),
    }
    chosen = []
    for kind, bind in (("tables", head.bind_embeddings), ("projections", bind_projections)):
        own = getattr(head, f"_own_{kind}", (None,) * count)
        for i, shape in enumerate(shapes[kind]):
            if bind[i] and tuple(parts[kind][i].shape) != shape:
                raise ValueError(
                    f"{head.name} binds the {kind} of an embedding with the same cutoffs and "
                    f"widths: for cluster {i} shape {shape}. "
                    f"Received: shape {tuple(parts[kind][i].shape)}."
                )
        chosen.append(tuple(parts[kind][i] if bind[i] else own[i] for i in range(count)))
    return tuple(chosen)


def tied_layer_from(value, name: str):
    """The layer that a configuration is tied to.

    Args:
      value: what `get_config` gave for it, or the layer itself, or None.
      name: of the layer that is tied, for the error.

    Raises:
      ValueError: if it would be another layer than the one that the embedding's place in the
        model becomes, so that the two would silently have weights of their own.
    """
    if value is None or isinstance(value, keras.layers.Layer):
        return value
    # Keras writes this number where a file mentions one layer twice, and makes one of the two.
    if "shared_object_id" not in value:
        raise ValueError(
            f"A tied {name} can only be made anew together with its embedding, by saving the "
            "model and loading it; from_config and clone_model would give it weights of its own. "
            "Received: tied_to="
            f"<the configuration of {value.get('config', {}).get('name')!r}>. "
            f'Use {name}.from_config({{**config, "tied_to": <the embedding>}}), or '
            "model.save(path) and keras.models.load_model(path)."
        )
    return keras.saving.deserialize_keras_object(value)


def path_of(model, layer):
    """Where in a model a layer is: steps that `layer_at` follows; None if it is not there.

    Args:
      model: a layer.
      layer: to be found, or None.

    Returns:
      A list of steps, each the name of an attribute, or a place among a model's `layers`.
    """
    if layer is None:
        return None
    if model is layer:
        return []
    seen, found = {id(model)}, [([], model)]
    while found:
        path, parent = found.pop(0)
        for step, child in _children(parent):
            if child is layer:
                return [*path, step]
            if id(child) not in seen:
                seen.add(id(child))
                found.append(([*path, step], child))
    return None


def layer_at(model, path):
    """The layer that `path_of` found, in a model made from the same configuration.

    Raises:
      ValueError: if there is none.
    """
    layer = model
    for step in path:
        children = dict(_children(layer))
        if step not in children:
            raise ValueError(
                f"The head is tied to the layer at {path} of the backbone {model.name!r}, which "
                f"has none there. Received: {sorted(map(str, children))} after {layer.name!r}."
            )
        layer = children[step]
    return layer


def embeds(model) -> bool:
    """Whether there is an embedding in a model, so that it takes ids."""
    if isinstance(model, (AdaptiveEmbedding, keras.layers.Embedding)):
        return True
    return any(embeds(child) for _, child in _children(model))


def _children(layer):
    """The layers directly inside a layer, each with a step that leads to it."""
    if isinstance(layer, keras.Model):
        yield from enumerate(layer.layers)
    else:
        for name, value in vars(layer).items():
            if isinstance(value, keras.layers.Layer):
                yield name, value
