"""The processes in which benchmarks measure their methods, asked one at a time."""

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import select
import signal
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ANSWER_SECONDS = 900
LEAST_REPEATS = 3


class WorkerError(Exception):
    """A worker that cannot go on, and why."""

    def __init__(self, reason: str, missing: bool = False):
        super().__init__(reason)
        self.missing = missing


class Worker:
    """A process that measures one method at one size.

    Args:
      python: the interpreter that has the method's library.
      case: of the method, a dataclass with `threads`; the module is told as JSON.
      module: that answers the requests.
    """

    def __init__(self, python: str, case, module: str = "benchmarks.softmax_worker"):
        # Closed by `stop`.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        threads = str(case.threads)
        self._process = subprocess.Popen(
            [python, "-m", module, json.dumps(dataclasses.asdict(case))],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def send(self, **request):
        """Sends a request, without waiting for the answer."""
        with contextlib.suppress(BrokenPipeError):  # `receive` says why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def receive(self) -> dict:
        """The answer to the oldest request that has none.

        Raises:
          WorkerError: if it is an error, or none comes.
        """
        if not select.select([self._process.stdout], [], [], ANSWER_SECONDS)[0]:
            raise WorkerError(f"no answer in {ANSWER_SECONDS} s")
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._cause_of_death())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"], answer.get("missing", False))
        return answer

    def ask(self, **request) -> dict:
        """Sends a request and returns its answer; raises `WorkerError` as `receive`."""
        self.send(**request)
        return self.receive()

    def stop(self):
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _cause_of_death(self):
        code = self._process.wait()
        if code < 0:
            cause = signal.Signals(-code).name
            if -code == signal.SIGKILL:
                cause += ", as the system does when memory runs out"
            return f"killed by {cause}"
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()] or ["nothing said"]
        return f"exit code {code}: {lines[-1]}"[:300]


def measure_cell(cases: dict, pythons: dict, repeats: int, seconds: float) -> dict:
    """Measures all methods at one size, in turn, so that whatever disturbs hits all alike.

    Args:
      cases: a `Case` for each method, all of the same size.
      pythons: the interpreter of each method.
      repeats: how often each is measured.
      seconds: after these no new repetition begins, once there are three.

    Returns:
      For each method a dict with its `status`: `ok`, with its figures and versions; `failed` or
      `not installed`, with the `reason`.
    """
    workers = {name: Worker(pythons[name], case) for name, case in cases.items()}
    found = {name: {"status": "ok"} for name in cases}
    samples = {name: {} for name in cases}

    @contextlib.contextmanager
    def worker_of(name):
        try:
            yield workers[name]
        except WorkerError as error:
            status = "not installed" if error.missing else "failed"
            found[name] = {"status": status, "reason": str(error)}
            workers.pop(name).stop()

    try:
        for worker in workers.values():
            worker.send(do="load")
        for name in cases:
            with worker_of(name) as worker:
                found[name]["versions"] = worker.receive()["versions"]
        for name in list(workers):
            with worker_of(name) as worker:
                found[name].update(worker.ask(do="prepare"))
        start = time.perf_counter()
        for repetition in range(repeats):
            late = time.perf_counter() - start > seconds
            if late and repetition >= LEAST_REPEATS:
                break
            # Not always the same one before: each leaves the caches and the clock in some state.
            names = random.Random(repetition).sample(list(workers), len(workers))
            for what in ("forward", "step", "fit"):
                for name in names:
                    if name not in workers or (what == "fit" and not cases[name].fit):
                        continue
                    with worker_of(name) as worker:
                        answer = worker.ask(do=what, repetition=repetition)
                        samples[name].setdefault(what, []).append(answer["seconds"])
                        found[name][f"{what}_loss"] = answer["loss"]
    finally:
        for worker in workers.values():
            worker.stop()
    for name, result in found.items():
        if result["status"] == "ok":
            result.update(figures(samples[name]))
    return found


def figures(samples: dict) -> dict:
    """Medians and samples of the seconds of `forward`, `step` and `fit`; of `backward` the median.

    What is backward is the difference of the other two's medians, so that a table adds up.
    """
    found = {
        f"{what}_seconds": {"median": statistics.median(values), "samples": values}
        for what, values in samples.items()
    }
    medians = [found[f"{what}_seconds"]["median"] for what in ("step", "forward")]
    return found | {"backward_seconds": {"median": medians[0] - medians[1]}}
