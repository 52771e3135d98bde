"""examples/serve_saved_model.py: what JSON has no word for, and requests that are none."""

import http.client
import http.server
import json
import threading

import pytest
import tensorflow as tf

from examples.serve_saved_model import make_handler


@pytest.fixture(scope="module")
def server():
    """Serves logarithms, as a SavedModel's signatures are: `log` and `place` of each number."""

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, "values")])
    def logarithms(values):
        return {"log": tf.math.log(values), "place": tf.cast(values, tf.int32)}

    signatures = {"serving_default": logarithms.get_concrete_function()}
    # As those of a SavedModel, they are called with names.
    signatures["serving_default"] = NamedOnly(signatures["serving_default"])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), make_handler(signatures))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class NamedOnly:
    """A concrete function with the signature that a SavedModel says of it."""

    def __init__(self, function):
        self._function = function
        self.structured_input_signature = ((), {"values": tf.TensorSpec([None, None], tf.float32)})

    def __call__(self, values):
        return self._function(values)


def strict(text):
    """What a parser reads that keeps to the standard."""

    def refuse(name):
        raise ValueError(f"not JSON: {name}")

    return json.loads(text, parse_constant=refuse)


def post(server, body, length=None):
    connection = http.client.HTTPConnection(*server.server_address, timeout=60)
    try:
        connection.putrequest("POST", "/v1/models/model:predict")
        connection.putheader("Content-Length", str(len(body)) if length is None else length)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, strict(answer.read())
    finally:
        connection.close()


def test_what_is_no_finite_number_is_null(server):
    code, answer = post(server, b'{"inputs": {"values": [[1, 0], [-1, 1]]}}')
    assert code == 200
    assert answer["outputs"] == {"log": [[0.0, None], [None, 0.0]], "place": [[1, 0], [-1, 1]]}
    code, answer = post(server, b'{"instances": [{"values": [1, 0]}, {"values": [1, 1]}]}')
    assert code == 200
    expected = [{"log": [0.0, None], "place": [1, 0]}, {"log": [0.0, 0.0], "place": [1, 1]}]
    assert answer["predictions"] == expected


@pytest.mark.parametrize(
    ("body", "length", "message"),
    [
        (b'{"inputs": {"values": [[NaN]]}}', None, "JSON has no NaN"),
        (b'{"inputs": {"values": [[-Infinity]]}}', None, "JSON has no -Infinity"),
        (b'{"inputs": {"values": [[null]]}}', None, "None"),
        (b'{"inputs": {"values": [[1e400]]}}', None, "must be finite"),
        (b'{"inputs": {"values": [[1e39]]}}', None, "must be finite"),
        (b"[" * 200_000, None, "nested too deeply"),
        (b"", "many", "Content-Length is a number. Received: 'many'"),
        (b"", "-1", "Content-Length is a number. Received: '-1'"),
    ],
)
def test_requests_that_are_none_are_answered(server, body, length, message):
    code, answer = post(server, body, length)
    assert code == 400
    assert message in answer["error"]
