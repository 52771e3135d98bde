"""What a graph's operations wait for."""


def ancestors(operation):
    """Names of all operations that one waits for by its inputs."""
    found, todo = set(), [operation]
    while todo:
        for tensor in todo.pop().inputs:
            if tensor.op.name not in found:
                found.add(tensor.op.name)
                todo.append(tensor.op)
    return found
