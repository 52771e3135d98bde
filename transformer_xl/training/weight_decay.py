"""Which weights decay."""

# The names of what is added or scales, in the layers of this project and of Keras, and those of
# embeddings: a rare word's row would decay in every step, and learn in few.
_LEFT_ALONE = ("bias", "gamma", "beta", "table", "cluster_kernel", "embeddings")


def decays(variable) -> bool:
    """Whether weight decay applies to a Keras variable: to the kernels of products.

    Not to biases (those of relative positions among them), scales and shifts of norms, and
    embedding tables; nor to `cluster_kernel`, the rows of the head's table that stand for tails.
    """
    if len(variable.shape) < 2:
        return False
    *owners, name = variable.path.split("/")
    if owners and owners[-1].endswith("biases"):
        return False
    return not name.startswith(_LEFT_ALONE) and not name.endswith("bias")
