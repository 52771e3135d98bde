"""Measures one training step for `benchmarks.training_step`, which starts this and asks.

    python -m benchmarks.training_step_worker '{"method": "ours", ...}'

A request is a line of JSON on the standard input, its answer a line on the standard output:

    {"do": "load"}                 imports the library; its versions
    {"do": "prepare"}              builds, takes the first steps; parameters, peak memory and
                                   memory before, in bytes
    {"do": "step", "number": 0}    seconds of a step, of all processors together, its loss

Peak memory is that of the process while it builds the model and takes three steps.
"""

import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from benchmarks.softmax_worker import limit_memory, resident_memory, versions
from benchmarks.training_step_methods import Case, load, zipf_ids

FIRST_STEPS = 3


class Server:
    """Answers the requests for one case."""

    def __init__(self, case: Case):
        self.case = case
        self.build = self.train = None

    def answer(self, request: dict) -> dict:
        """The answer to a request, errors included."""
        try:
            return self._answer(request)
        except ImportError as error:
            return {"error": f"ImportError: {error}"[:300], "missing": True}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"[:300]}

    def _answer(self, request):
        if request["do"] == "load":
            self.build = load(self.case)
            return {"versions": versions() | _transformers_version()}
        if request["do"] == "prepare":
            limit_memory()
            before, _ = resident_memory()
            parameters, self.train = self.build()
            for step in range(FIRST_STEPS):
                self.train(zipf_ids(self.case, step))
            _, peak = resident_memory()
            found = {"parameters": parameters, "peak_memory_bytes": peak}
            return found | {"before_memory_bytes": before}
        ids = zipf_ids(self.case, FIRST_STEPS + request["number"])
        start, processor = time.perf_counter(), time.process_time()
        loss = self.train(ids)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        return {"seconds": seconds, "processor_seconds": processor, "loss": loss}


def _transformers_version():
    if "transformers" not in sys.modules:
        return {}
    return {"transformers": sys.modules["transformers"].__version__}


def main():
    """Answers until the standard input ends."""
    # The answers have the standard output for themselves; what libraries print joins the errors.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    case = json.loads(sys.argv[1])
    server = Server(Case(**{**case, "cutoffs": tuple(case["cutoffs"])}))
    for line in sys.stdin:
        print(json.dumps(server.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
