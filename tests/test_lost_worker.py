"""A worker that is killed: the other one ends, and the job goes on with two processes or one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.test_distribute import free_ports

FLAGS = [
    *("--corpus=sotu", "--vocabulary_min_count=20", "--cutoffs=500,3000", "--div_val=2"),
    *("--num_layers=1", "--model_dim=16", "--num_heads=2", "--feed_forward_dim=16", "--dropout=0"),
    *("--memory_length=8", "--segment_length=8", "--batch_size=8", "--max_steps=100000"),
    *("--warmup_steps=200", "--report_every=5", "--checkpoint_every=5", "--eval_every=0"),
    *("--precision=float32", "--jit_compile=false"),
]


class Job:
    """The processes of one start, in a run's directory."""

    def __init__(self, directory, workers):
        self.directory = directory
        addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
        self.processes = []
        for index in range(workers):
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
            if workers > 1:
                task = {"type": "worker", "index": index}
                cluster = {"worker": addresses}
                environment["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
            log = open(f"{directory}.{index}.log", "w")  # noqa: SIM115 (the process writes there)
            command = [sys.executable, "train.py", f"--workdir={directory}", *FLAGS]
            self.processes.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
            )

    def until(self, step):
        """Waits for the report of a step."""
        for _ in range(3000):
            if max(curve(self.directory), default=0) >= step:
                return
            assert self.processes[0].poll() is None, self.said(0)
            time.sleep(0.1)
        raise TimeoutError(self.said(0))

    def stop(self):
        """A signal to the last process; the exit codes of all."""
        self.processes[-1].send_signal(signal.SIGTERM)
        return [process.wait(120) for process in self.processes]

    def said(self, index):
        with open(f"{self.directory}.{index}.log") as log:
            return log.read()


def curve(directory):
    """The training losses by step."""
    path = os.path.join(directory, "metrics.jsonl")
    if not os.path.exists(path):
        return {}
    with open(path) as lines:
        reports = [json.loads(line) for line in lines if line.endswith("\n")]
    return {r["step"]: r["loss"] for r in reports if r["split"] == "train"}


@pytest.mark.slow
def test_the_other_worker_ends_and_the_job_goes_on(tmp_path):
    whole, killed, alone = (str(tmp_path / name) for name in ("whole", "killed", "alone"))
    job = Job(killed, 2)
    job.until(15)
    job.processes[1].kill()
    before = time.monotonic()
    assert job.processes[0].wait(60) == 1
    seconds = time.monotonic() - before
    assert "error: another worker stopped or cannot be reached" in job.said(0)
    shutil.copytree(killed, alone)
    reached = max(curve(killed))

    for directory, workers in ((killed, 2), (alone, 1)):
        job = Job(directory, workers)
        job.until(reached + 20)
        assert job.stop() == [75] * workers
        assert "going on after step" in job.said(0)
    last = max(*curve(killed), *curve(alone))
    job = Job(whole, 1)
    job.until(last)
    assert job.stop() == [75]

    expected = curve(whole)
    for directory in (killed, alone):
        # The last report may be of fewer steps, those up to the signal.
        steps = [step for step in curve(directory) if step % 5 == 0 and step in expected]
        assert max(steps) >= reached + 20
        ours = [curve(directory)[step] for step in steps]
        np.testing.assert_allclose(ours, [expected[step] for step in steps], rtol=1e-5)
        error = np.max(np.abs(np.array(ours) / [expected[step] for step in steps] - 1))
        print(f"{directory}: {len(steps)} reports, relative difference {error:.1e}")
    print(f"killed after step {reached}; the other ended {seconds:.1f} s later")
