"""Measures one method at one size for `benchmarks.softmax`, which starts this and asks.

    python -m benchmarks.softmax_worker '{"method": "adaptive", ...}'

A request is a line of JSON on the standard input, its answer a line on the standard output:

    {"do": "load"}                      imports the library
    {"do": "prepare"}                   builds, takes the first steps; peak memory, parameters
    {"do": "forward", "repetition": 0}  seconds of the loss, and the loss
    {"do": "step", "repetition": 0}     seconds of loss and gradients, and the loss
    {"do": "fit", "repetition": 0}      seconds of one step of Keras' `fit`, and the loss

An answer has `error`, and `missing` where a library is not there, if the request failed. Peak
memory is what the first step with gradients takes beyond weights and inputs: of the GPU where there
is one; otherwise the resident set at its largest less what it was before. A small step comes first,
so that loading code is not counted, but the compiler's own memory is.
"""

import contextlib
import ctypes
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import sys
import time

# Before any library is loaded; what they have to say about themselves is of no use here.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from benchmarks.softmax_methods import Case, Method, load, zipf_targets

LIBRARIES = ("tensorflow", "keras", "torch", "keras-adaptive-softmax", "tf_keras", "numpy")
FIT_STEPS = 2


class Server:
    """Answers the requests for one case."""

    def __init__(self, case: Case):
        self.case = case
        self.build = None
        self.method: Method | None = None

    def answer(self, request: dict) -> dict:
        """The answer to a request, errors included."""
        try:
            return self._answer(request["do"], request.get("repetition", -1))
        except ImportError as error:
            return {"error": _reason(error), "missing": True}
        except Exception as error:
            return {"error": _reason(error)}

    def _answer(self, what, repetition):
        if what == "load":
            self.build = load(self.case)
            return {"versions": versions()}
        if what == "prepare":
            return self._prepare()
        # The same targets for every method, and others in each repetition.
        targets = self._targets(self.case, repetition)
        start = time.perf_counter()
        if what == "fit":
            loss = self.method.fit(targets, FIT_STEPS)
            seconds = (time.perf_counter() - start) / FIT_STEPS
        else:
            loss = getattr(self.method, what)(targets)
            seconds = time.perf_counter() - start
        return {"seconds": seconds, "loss": loss}

    def _prepare(self):
        small = self.case.small()
        rehearsal = self.build(small)
        rehearsal.step(self._targets(small))
        del rehearsal
        self.method = self.build(self.case)
        free_memory()
        if self.method.gpu_memory is None:
            limit_memory()
        memory = self.method.gpu_memory or resident_memory
        targets = self._targets(self.case)
        memory()  # forgets the peak so far
        before, _ = memory()
        self.method.step(targets)
        _, peak = memory()
        self.method.forward(targets)
        if self.method.fit:
            self.method.fit(targets, 1)
        return {
            "peak_memory_bytes": max(0, peak - before),
            "parameters": self.method.parameters,
            "device": self.method.device,
        }

    def _targets(self, case, repetition=-1):
        seed = [case.seed, 1 + repetition]
        return zipf_targets(case.vocab_size, case.tokens, case.zipf_exponent, seed)


def versions():
    """The versions of what takes part here."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def resident_memory():
    """Bytes of the resident set: now, and the most since the last call.

    Not `ru_maxrss`, where Linux lets a process start with its parent's and which cannot be reset;
    it is the answer to both where there is nothing better.
    """
    try:
        found = _status("VmRSS"), _status("VmHWM")
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets VmHWM
        return found
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak, peak


def free_memory():
    """Gives back what initializers took, so that the first step has to ask for its own memory."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what is freed


def limit_memory():
    """Lets allocations fail once they exceed most of the machine's free memory.

    Otherwise the system ends some process, perhaps not this one, with nothing said of the cause.
    """
    with contextlib.suppress(OSError, ValueError):
        free = _status("MemAvailable", "/proc/meminfo")
        resource.setrlimit(resource.RLIMIT_DATA, (_status("VmData") + int(0.9 * free), -1))
        pathlib.Path("/proc/self/oom_score_adj").write_text("1000")


def _status(name, path="/proc/self/status"):
    """A number of bytes from a file of Linux'."""
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"There is no {name} in {path}.")


def _reason(error):
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0].strip()}"[:300]


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
