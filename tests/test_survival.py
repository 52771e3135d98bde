"""Runs that are killed, and checkpoints that are damaged; the scripts beside this file, shortened.

`python -m tests.kill_resume` kills 20 times; `python -m tests.damage_table` prints what happens.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def script(name, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"tests.{name}", *arguments],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--signal=KILL"],
        ["--signal=TERM"],
        ["--accumulate_steps=3"],
        ["--precision=bfloat16"],
        ["--jit_compile=true"],
    ],
    ids=lambda arguments: arguments[0].strip("-"),
)
def test_killed_and_resumed_is_as_if_left_alone(arguments, tmp_path):
    short = ["--kills=4", "--max_steps=60", f"--json={tmp_path}/out.json"]
    result = script("kill_resume", *arguments, *short)
    assert result.returncode == 0, result.stdout + result.stderr
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["kills"] == 4
    assert figures["reports"] > 60
    assert figures["reports_that_differ"] == 0
    assert figures["states_equal"]
    if arguments == ["--signal=TERM"]:
        assert figures["saved_and_left"] > 0
    else:
        assert figures["inside_a_write"] > 0


def test_damage_a_full_disk_and_a_folder_of_another_user():
    result = script("damage_table")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("\n| ") >= 12
