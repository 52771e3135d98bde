"""What a graph's operations wait for, and which there are once calls are replaced."""

import collections


def ancestors(operation):
    """Names of all operations that one waits for by its inputs."""
    found, todo = set(), [operation]
    while todo:
        for tensor in todo.pop().inputs:
            if tensor.op.name not in found:
                found.add(tensor.op.name)
                todo.append(tensor.op)
    return found


def operations_run(graph):
    """How many operations there are of each pair (type, shape of the first result).

    Those of a function count as often as it is called, its call itself does not.
    """
    whole = graph.as_graph_def(add_shapes=True)
    functions = {function.signature.name: function for function in whole.library.function}

    def count(nodes):
        found = collections.Counter()
        for node in nodes:
            if node.op in ("PartitionedCall", "StatefulPartitionedCall"):
                found += count(functions[node.attr["f"].func.name].node_def)
            else:
                shapes = node.attr["_output_shapes"].list.shape
                shape = tuple(axis.size for axis in shapes[0].dim) if shapes else None
                found[node.op, shape] += 1
        return found

    return count(whole.node)
