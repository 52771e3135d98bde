"""Serves an exported model over HTTP, in the REST format of TensorFlow Serving.

It needs nothing but TensorFlow, and none of this project: copy it beside an export.

  python train.py --mode=export --workdir=runs/wikitext2_small
  python examples/serve_saved_model.py runs/wikitext2_small/export/saved_model/1 --port=8501
  curl -d '{"signature_name": "initial_memory", "inputs": {"batch_size": 1}}' \
    http://localhost:8501/v1/models/model:predict

For one machine and few requests; TensorFlow Serving answers the same requests in production.
What is no finite number, for which JSON has no word, is null in an answer.
docs/serving.md has the signatures, and a client that scores a text.
"""

import argparse
import http.server
import json

import numpy as np
import tensorflow as tf

NAME = "model"


class BadRequestError(ValueError):
    """What a client did wrong."""


def predict(signatures, request: dict) -> dict:
    """The response to the body of a `:predict` request.

    Args:
      signatures: of a loaded SavedModel.
      request: `signature_name` (default `serving_default`) and either `inputs`, an object of a
        nested list for each tensor, or `instances`, a list with an object for each row.

    Returns:
      `{"outputs": {...}}` for inputs, `{"predictions": [{...}, ...]}` for instances.

    Raises:
      BadRequestError: if it does not fit the signature.
    """
    name = request.get("signature_name", "serving_default")
    if not isinstance(name, str) or name not in signatures:
        raise BadRequestError(f"Serving signature name: {name!r} not found in signature def")
    signature = signatures[name]
    _, specs = signature.structured_input_signature
    if ("inputs" in request) == ("instances" in request):
        raise BadRequestError("A request has either 'inputs' or 'instances'.")
    by_row = "instances" in request
    given = columns(request["instances"]) if by_row else request["inputs"]
    if not isinstance(given, dict) or set(given) != set(specs):
        names = sorted(given) if isinstance(given, dict) else type(given).__name__
        raise BadRequestError(f"{name} takes {sorted(specs)}. Received: {names}.")
    try:
        tensors = {key: _tensor(given[key], specs[key].dtype) for key in specs}
        for key, tensor in tensors.items():
            if not specs[key].shape.is_compatible_with(tensor.shape):
                wanted = f"{key} has the shape {specs[key].shape}"
                raise BadRequestError(f"{wanted}. Received: shape {tensor.shape}.")
        outputs = {key: value.numpy() for key, value in signature(**tensors).items()}
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise BadRequestError(" ".join(str(error).split())[:500]) from error
    if not by_row:
        plain = {key: _as_json(value) for key, value in outputs.items()}
        return {"outputs": plain if len(plain) > 1 else next(iter(plain.values()))}
    num_rows = len(request["instances"])
    if any(value.shape[:1] != (num_rows,) for value in outputs.values()):
        raise BadRequestError(f"{name} has results that are not one for each row: use 'inputs'.")
    rows = [{key: _as_json(value[i]) for key, value in outputs.items()} for i in range(num_rows)]
    return {"predictions": rows}


def _as_json(value: np.ndarray):
    """A nested list of numbers, and None in place of those that are not finite."""
    finite = np.isfinite(value)
    return value.tolist() if finite.all() else np.where(finite, value, None).tolist()


def _tensor(value, dtype) -> tf.Tensor:
    if dtype != tf.int32:
        numbers = tf.constant(value, dtype)
        # JSON's own numbers may be too large for a float: 1e400.
        if dtype.is_floating and not np.isfinite(numbers).all():
            raise BadRequestError("Numbers must be finite. Received others.")
        return numbers
    # Of a number that int32 cannot hold TensorFlow would silently make another one.
    numbers = tf.constant(value, tf.int64)
    if bool(tf.reduce_any((numbers < dtype.min) | (numbers > dtype.max))):
        raise BadRequestError(f"Integers are in {dtype.min} to {dtype.max}. Received others.")
    return tf.cast(numbers, dtype)


def columns(instances) -> dict:
    """Rows of objects as an object of columns."""
    if not (isinstance(instances, list) and instances and isinstance(instances[0], dict)):
        raise BadRequestError("'instances' is a list of objects, at least one.")
    keys = instances[0].keys()
    if any(not isinstance(row, dict) or row.keys() != keys for row in instances):
        raise BadRequestError("All instances have the same keys.")
    return {key: [row[key] for row in instances] for key in keys}


def _refuse(name: str):
    raise BadRequestError(f"JSON has no {name}.")


def make_handler(signatures):
    """The class that answers requests for a loaded SavedModel."""

    class Handler(http.server.BaseHTTPRequestHandler):
        """GET /v1/models/model says its state, POST /v1/models/model:predict predicts."""

        def do_GET(self):
            if self.path != f"/v1/models/{NAME}":
                return self._answer(404, {"error": "Not found"})
            status = {"error_code": "OK", "error_message": ""}
            states = [{"version": "1", "state": "AVAILABLE", "status": status}]
            return self._answer(200, {"model_version_status": states})

        def do_POST(self):
            if self.path != f"/v1/models/{NAME}:predict":
                return self._answer(404, {"error": "Not found"})
            try:
                length = self.headers.get("Content-Length", "0")
                if not (length.isascii() and length.isdecimal()):
                    raise BadRequestError(f"Content-Length is a number. Received: {length!r}.")
                request = json.loads(self.rfile.read(int(length)), parse_constant=_refuse)
                if not isinstance(request, dict):
                    raise BadRequestError("A request is a JSON object.")
                return self._answer(200, predict(signatures, request))
            except RecursionError:
                return self._answer(400, {"error": "The request is nested too deeply."})
            except ValueError as error:
                return self._answer(400, {"error": str(error)})

        def _answer(self, code: int, content: dict):
            body = json.dumps(content, allow_nan=False).encode("utf-8")
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass  # a line for each segment of a text would be many

    return Handler


def main():
    """Loads the model and serves until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("saved_model", help="folder of the SavedModel, .../saved_model/1")
    parser.add_argument("--port", type=int, default=8501, help="0: any that is free")
    parser.add_argument("--host", default="127.0.0.1", help="whom to answer; default: this machine")
    arguments = parser.parse_args()
    loaded = tf.saved_model.load(arguments.saved_model)
    server = http.server.ThreadingHTTPServer(
        (arguments.host, arguments.port), make_handler(loaded.signatures)
    )
    print(f"http://{arguments.host}:{server.server_port}/v1/models/{NAME}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
