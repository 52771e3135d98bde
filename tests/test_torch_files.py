"""PyTorch's files and pickles: what is read, and that nothing in them is run."""

import collections
import os
import pickle
import random
import re
import struct
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from tests.golden_files import unpack
from transformer_xl.pretrained import load_huggingface, load_pytorch
from transformer_xl.pretrained.torch_files import load_torch_file

FORMATS = ("zip", "plain")


class Calls:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def write(path, pickled: bytes, kind: str, arrays=()):
    """A file as torch.save writes it, around a pickle."""
    if kind == "plain":
        path.write_bytes(pickled)
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickled)
        for key, array in enumerate(arrays):
            archive.writestr(f"model/data/{key}", array.tobytes())


def marker_command(tmp_path):
    """A command that leaves a file behind, and the file."""
    marker = tmp_path / "it_ran"
    return f"touch {marker}", marker


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["system", "eval", "exec"])
def test_a_pickle_that_runs_a_command_is_refused(name, protocol, kind, tmp_path):
    command, marker = marker_command(tmp_path)
    code = f"__import__('os').system({command!r})"
    call = {
        "system": Calls(os.system, command),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
    }[name]
    path = tmp_path / "weights.pt"
    pickled = pickle.dumps({"r_w_bias": call}, protocol)
    write(path, pickled, kind)
    with pytest.raises(ValueError, match=r"weights\.pt: it holds .*nothing in it was run"):
        load_torch_file(str(path))
    assert not marker.exists()
    # The file is what it is meant to be: Python's own reader does run it.
    pickle.loads(pickled)
    assert marker.exists()


OPCODES = {
    "INST": b"(S'%s'\niposix\nsystem\n.",
    "OBJ": b"(cposix\nsystem\nS'%s'\no.",
    "GLOBAL and REDUCE": b"cposix\nsystem\n(S'%s'\ntR.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93(S'%s'\ntR.",
    "through an allowed name": b"ccollections\nOrderedDict.__class__\n(S'%s'\ntR.",
    "builtins": b'cbuiltins\neval\n(S\'__import__("os").system("%s")\'\ntR.',
    "torch's own": b"ctorch.serialization\nos.system\n(S'%s'\ntR.",
    "a module beside an allowed one": b"ctorch._utils\nsys.modules\n(S'%s'\ntR.",
}


@pytest.mark.parametrize("program", OPCODES.values(), ids=OPCODES)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_way_to_a_name_is_closed(program, kind, tmp_path):
    command, marker = marker_command(tmp_path)
    path = tmp_path / "weights.bin"
    write(path, program.replace(b"%s", command.encode()), kind)
    with pytest.raises(ValueError, match=r"weights\.bin.*nothing in it was run"):
        load_torch_file(str(path))
    assert not marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        # Sets an attribute of a function, of a type, and of what takes the place of a class.
        b"ctorch._utils\n_rebuild_tensor_v2\n}S'_function'\ncre\ncompile\nsb.",
        b"ccollections\nOrderedDict\n(N}S'x'\nI1\nstb.",
        b"ctorch\nFloatStorage\n}S'value'\nI1\nsb.",
        b"ccollections\nOrderedDict\n(t\x81.",  # NEWOBJ
    ],
)
def test_names_cannot_be_changed(program, tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(program)
    with pytest.raises(ValueError, match=r"weights\.bin"):
        load_torch_file(str(path))
    path.write_bytes(pickle.dumps(collections.OrderedDict(a=1)))
    assert load_torch_file(str(path)) == {"a": 1}


def test_tokenizers_objects_are_passed_over_and_not_made(tmp_path):
    path = tmp_path / "vocab.pkl"
    for module, name in (("re", "_compile"), ("transformers.anything", "f"), ("sacremoses", "g")):
        call = f"c{module}\n{name}\n(S'[unclosed'\ntR".encode()
        path.write_bytes(b"(dS'object'\n" + call + b"sS'idx2sym'\n(lS'a'\nas.")
        result = load_torch_file(str(path))
        assert result["idx2sym"] == ["a"]
        assert not isinstance(result["object"], re.Pattern)
    assert "transformers" not in sys.modules
    assert "sacremoses" not in sys.modules


def test_a_malicious_file_is_refused_where_models_are_loaded(tmp_path):
    command, marker = marker_command(tmp_path)
    unpack("huggingface_div4_tied", tmp_path)
    write(tmp_path / "pytorch_model.bin", pickle.dumps(Calls(os.system, command)), "zip")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: it holds posix\.system"):
        load_huggingface(str(tmp_path))
    write(tmp_path / "model.pt", pickle.dumps(Calls(os.system, command)), "plain")
    with pytest.raises(ValueError, match=r"model\.pt: it holds posix\.system"):
        load_pytorch(str(tmp_path / "model.pt"), {"memory_length": 3})
    unpack("huggingface_div4_tied", tmp_path)
    (tmp_path / "vocab.pkl").write_bytes(pickle.dumps(Calls(os.system, command)))
    with pytest.raises(ValueError, match=r"vocab\.pkl: it holds posix\.system"):
        load_huggingface(str(tmp_path))
    assert not marker.exists()


def test_a_whole_module_gets_advice(tmp_path):
    path = tmp_path / "model.pt"
    for pickled in (
        b"cmem_transformer\nMemTransformerLM\n)\x81}b.",
        b"(S'module'\ncmem_transformer\nMemTransformerLM\nS'model.py'\nS'class'\ntQ.",
    ):
        write(path, pickled, "zip")
        with pytest.raises(ValueError, match=r"state_dict\(\), \"state\.pt\"\)") as caught:
            load_pytorch(str(path), {"memory_length": 3})
        assert "whole module" in str(caught.value)


def tensor(kind, offset, shape, stride, size, key="0"):
    """The pickle of a dictionary with one tensor."""

    def numbers(values):
        return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"

    storage = b"(S'storage'\nctorch\n%s\nS'%s'\nS'cpu'\nI%d\ntQ" % (
        kind.encode(),
        key.encode(),
        size,
    )
    arguments = storage + b"I%d\n" % offset + numbers(shape) + numbers(stride) + b"I00\n}"
    return b"(dS'w'\nctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs."


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("FloatStorage", "float32"),
        ("DoubleStorage", "float64"),
        ("HalfStorage", "float16"),
        ("BFloat16Storage", tf.bfloat16.as_numpy_dtype),
        ("LongStorage", "int64"),
        ("BoolStorage", "bool"),
    ],
)
def test_tensors_of_every_kind(kind, dtype, tmp_path):
    path = tmp_path / "weights.pt"
    values = np.arange(12).astype(dtype)
    write(path, tensor(kind, 2, (2, 3), (1, 3), 12), "zip", [values])
    result = load_torch_file(str(path))["w"]
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, values[[[2, 5, 8], [3, 6, 9]]])


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "size"),
    [
        (0, (13,), (1,), 12),
        (1, (12,), (1,), 12),
        (-1, (2,), (1,), 12),
        (0, (3, 3), (5, 1), 12),
        (5, (3,), (-2,), 12),
        (0, (2,), (1, 1), 12),
        (0, (-2,), (1,), 12),
        (0, (2,), (1,), 13),
    ],
)
def test_tensors_outside_their_storage(offset, shape, stride, size, tmp_path):
    path = tmp_path / "weights.pt"
    values = np.arange(12, dtype="float32")
    write(path, tensor("FloatStorage", offset, shape, stride, size), "zip", [values])
    with pytest.raises(ValueError, match=r"weights\.pt cannot be read: it is damaged"):
        load_torch_file(str(path))


def test_a_storage_that_is_missing_or_too_long(tmp_path):
    path = tmp_path / "weights.pt"
    write(path, tensor("FloatStorage", 0, (2,), (1,), 2), "zip")
    with pytest.raises(ValueError, match="damaged"):
        load_torch_file(str(path))
    path.write_bytes(tensor("FloatStorage", 0, (2,), (1,), 10**15))
    with pytest.raises(ValueError, match="longer than the file"):
        load_torch_file(str(path))


def test_an_archive_that_is_compressed(tmp_path):
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}))
    with pytest.raises(ValueError, match="torch.save does not compress"):
        load_torch_file(str(path))


def test_what_is_no_state_dict(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps({"model": {"a": 1}, "step": 3}))
    with pytest.raises(ValueError, match=r"must hold a state dict.*Its keys: model, step\..*Save"):
        load_pytorch(str(path), {"memory_length": 3})
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="must hold a state dict"):
        load_pytorch(str(path), {"memory_length": 3})


@pytest.mark.parametrize("case", ["div1_tied", "div1_untied"])  # the zip and the older format
def test_damaged_files_are_errors_or_other_weights(case, tmp_path):
    unpack(f"huggingface_{case}", tmp_path)
    path = tmp_path / "pytorch_model.bin"
    content = path.read_bytes()
    names = set(load_torch_file(str(path)))
    draw = random.Random(1)
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(draw.choice([1, 3, 10])):
            # The pickles stand at the beginning, or near the archive's.
            damaged[draw.randrange(draw.choice([200, 3000, len(content)]))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            result = load_torch_file(str(path))
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert not isinstance(result, dict) or len(result) <= len(names)
    for size in (0, 1, 5, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="cannot be read: it is damaged"):
            load_torch_file(str(path))


def test_legacy_storages_of_another_length(tmp_path):
    unpack("huggingface_div1_untied", tmp_path)
    path = tmp_path / "pytorch_model.bin"
    content = path.read_bytes()
    weights = load_torch_file(str(path))
    first = next(iter(weights.values()))
    at = content.rindex(struct.pack("<q", first.size) + first.tobytes())
    path.write_bytes(content[:at] + struct.pack("<q", first.size + 1) + content[at + 8 :])
    with pytest.raises(ValueError, match="has another length than it says"):
        load_torch_file(str(path))
