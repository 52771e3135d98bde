"""One device, two devices and two processes compute the same."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT
from tests.distributed_steps import B, trained
from transformer_xl.memory import Memory
from transformer_xl.training import rendezvous
from transformer_xl.training.distribute import Replicas, make_replicas
from transformer_xl.training.rendezvous import meet


@pytest.fixture(scope="module")
def one():
    return trained(Replicas())


@pytest.mark.parametrize(
    ("jit_compile", "accumulate_steps"), [(False, 1), pytest.param(True, 2, marks=pytest.mark.slow)]
)
def test_two_replicas_train_like_one(one, mirrored, jit_compile, accumulate_steps):
    reports, memory, _ = trained(Replicas(mirrored), jit_compile, accumulate_steps)
    np.testing.assert_allclose(reports, one[0], rtol=1e-5)
    assert memory.hidden[0].shape == (B, 7, 8)
    # In the order of the rows.
    np.testing.assert_allclose(memory.hidden[1], one[1].hidden[1], atol=1e-5)
    np.testing.assert_array_equal(memory.valid, one[1].valid)


@pytest.mark.slow
def test_replicas_draw_other_masks_from_one_seed(mirrored):
    reports, _, seed = trained(Replicas(mirrored), dropout=0.3)
    alone, _, seed_alone = trained(Replicas(), dropout=0.3)
    assert abs(reports[0, 0] / alone[0, 0] - 1) > 1e-5
    np.testing.assert_array_equal(seed, seed_alone)


def test_memory_is_cut_row_by_row_in_a_graph(mirrored, monkeypatch):
    """Each replica's own rows; eagerly TensorFlow starts threads for each call, and warns of it."""
    replicas, eagerly = Replicas(mirrored), []
    run = mirrored.run

    def recorded(*given, **named):
        eagerly.append(tf.executing_eagerly())
        return run(*given, **named)

    monkeypatch.setattr(mirrored, "run", recorded)
    valid = np.array([7, 0, 3, 5], np.int32)
    memory = replicas.split(Memory((tf.random.normal([4, 7, 2]),), tf.constant(valid)))
    for bounds in ([2, 9, 4, 0], [9, 9, 1, 9]):
        memory = replicas.cut(memory, tf.constant(bounds))
        valid = np.minimum(valid, bounds)
        whole = replicas.gather(memory)
        np.testing.assert_array_equal(whole.valid, valid)
    assert whole.hidden[0].shape == (4, 7, 2)
    assert eagerly == [False]


def test_batches_that_do_not_split_are_refused(mirrored):
    with pytest.raises(ValueError, match="divisible by the number of replicas, 2.*batch_size=9"):
        Replicas(mirrored).check_batch_size(9)
    with pytest.raises(ValueError, match="accumulate_steps, 3"):
        Replicas(mirrored).check_batch_size(8, 3)


@pytest.mark.parametrize(
    "config",
    [
        "",
        "{",
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": [1, 2]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1", "b"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1", "b:99999"]}, "task": {"type": "worker", "index": 1}}',
        *(
            json.dumps(
                {"cluster": {"worker": ["a:1", other]}, "task": {"type": "worker", "index": 0}}
            )
            for other in ("a:1", "http://b:1", "b..c:1", "[b:1", "::1:1")
        ),
    ],
)
def test_several_workers_need_their_addresses(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match="TF_CONFIG"):
        make_replicas("multi_worker")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one_of_them in sockets:
        one_of_them.bind(("127.0.0.1", 0))
    ports = [one_of_them.getsockname()[1] for one_of_them in sockets]
    for one_of_them in sockets:
        one_of_them.close()
    return ports


def test_workers_go_on_when_all_have_been_there():
    ports = free_ports(3)
    workers, servers = [f"localhost:{port}" for port in ports], []

    def work(index):
        meet(workers, index)
        # As TensorFlow's server does from then on.
        servers.append(socket.create_server(("localhost", ports[index])))

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(3)]
    for thread in threads[:2]:
        thread.start()
    threads[0].join(1)
    assert all(thread.is_alive() for thread in threads[:2])
    threads[2].start()
    for thread in threads:
        thread.join(20)
    assert len(servers) == 3
    for server in servers:
        server.close()


def test_a_worker_that_has_left_is_waited_for_again(monkeypatch):
    """One of the others is there, then the other one, then both."""
    workers = [f"localhost:{port}" for port in free_ports(3)]
    there = [{workers[1]}, {workers[2]}, set(workers)]
    monkeypatch.setattr(rendezvous, "_listens", lambda address: address in there[0])
    monkeypatch.setattr(rendezvous.time, "sleep", lambda _: there.pop(0))
    meet(workers, 0)
    assert len(there) == 1


def test_an_address_where_another_program_listens(monkeypatch):
    with socket.create_server(("", 0)) as other:
        workers = [f"localhost:{other.getsockname()[1]}", "localhost:1"]
        task = {"type": "worker", "index": 0}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": workers}, "task": task}))
        message = f"at its address in TF_CONFIG. Received: {workers[0]}: Address already in use"
        with pytest.raises(OSError, match=message):
            make_replicas("auto")


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_a_signal_ends_the_wait_for_other_workers(tmp_path, number):
    """TensorFlow waits without end in its own code, where Python hears no signal."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    task = {"type": "worker", "index": 0}
    environment = {
        **os.environ,
        "TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task}),
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    command = [sys.executable, "train.py", f"--workdir={tmp_path}"]
    # What is started in a shell's background ignores SIGINT, and so would the run.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        signal.signal(signal.SIGINT, before)
        try:
            waiting = f"waiting for all workers of TF_CONFIG: {', '.join(workers)}\n"
            assert process.stdout.readline() == waiting
            time.sleep(1)
            process.send_signal(number)
            assert process.wait(30) == -number
        finally:
            process.kill()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_train_like_one(one):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        environment = {
            **os.environ,
            "TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task}),
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.distributed_steps", "multi_worker"],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        result = json.loads(output)
        np.testing.assert_allclose(result["reports"], one[0], rtol=1e-5)
        assert result["shape"] == [B, 7, 8]
