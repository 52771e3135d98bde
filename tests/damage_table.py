"""What training does on damaged checkpoints, on a full disk and in a folder it may not write to.

  python -m tests.damage_table

As root, for the full disk (a small tmpfs) and the folder that another user may not write to; else
these are left out. Prints a table of what was done, the exit code and what was said; ends with 1
if anything is not as it should be.
"""

import contextlib
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl.testing import flagsaver

import train

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUN = """--corpus=text --vocabulary_min_count=1 --num_layers=1 --model_dim=64 --num_heads=2
--feed_forward_dim=64 --cutoffs=5,9 --div_val=2 --batch_size=2 --segment_length=8 --memory_length=8
--eval_batch_size=2 --max_steps=12 --report_every=1 --eval_every=6 --checkpoint_every=3
--jit_compile=false""".split()
_NOBODY = "65534"
_SMALL_FILES = 24 * 4096  # bytes: room for reports but not for a checkpoint


class Cases:
    """Runs of train.py, each on a copy of one that reached step 9 of 12."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._text = folder / "story.txt"
        self._text.write_text("Ann sees Bob .\nBob hears Cleo .\nCleo knows Dan .\n" * 150)
        self.begun = folder / "begun"
        code, said = self.start(self.begun, "--max_steps=9", "--schedule=constant")
        if code:
            raise RuntimeError(said)
        self.rows, self.wrong = [], 0

    def arguments(self, workdir, *more) -> list[str]:
        return [*RUN, f"--data_dir={self._text}", f"--workdir={workdir}", *more]

    def start(self, workdir, *more) -> tuple[int, str]:
        """Exit code and output of a start in this process."""
        output = io.StringIO()
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            flagsaver.flagsaver(),
        ):
            try:
                train.main(train.parse_flags(["train.py", *self.arguments(workdir, *more)]))
            except SystemExit as end:
                return end.code, output.getvalue()
        return 0, output.getvalue()

    def copy(self) -> pathlib.Path:
        workdir = self._folder / f"case{len(self.rows)}"
        shutil.copytree(self.begun, workdir)
        return workdir

    def add(self, name: str, found: tuple[int, str], code: int, pattern: str):
        """A row of the table: what was tried, what came of it, and whether it should."""
        lines = [line for line in found[1].splitlines() if re.search(pattern, line)]
        fine = found[0] == code and len(lines) == 1 and "Traceback" not in found[1]
        self.wrong += not fine
        said = lines[0] if lines else found[1][-800:]
        said = re.sub(r"/\S*?/(?=case\d+|full|begun)", "", said)
        self.rows.append(f"| {name} | {found[0]} | {said} |{'' if fine else ' WRONG'}")
        print(self.rows[-1], flush=True)

    def damaged(self, name: str, damage, code: int, pattern: str, *more):
        """What a start says after `damage` of the folder `checkpoints`."""
        workdir = self.copy()
        damage(workdir / "checkpoints")
        self.add(name, self.start(workdir, *more), code, pattern)


def main() -> int:
    print("| what was done | exit code | what was said |\n|---|---:|---|")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        cases = Cases(pathlib.Path(folder))
        damaged_files(cases)
        other_models(cases)
        if os.geteuid() == 0:
            full_disks(cases)
            read_only(cases)
        else:
            print("not root: without the full disk and the folder of another user")
    return 1 if cases.wrong else 0


def damaged_files(cases: Cases):
    def on_file(change, name="state.safetensors", state="step-9"):
        return lambda folder: change(folder / state / name)

    def flip(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    def halved(path):
        os.truncate(path, path.stat().st_size // 2)

    def half_written(folder):
        shutil.copytree(folder / "step-9", folder / ".writing-step-12")
        os.truncate(folder / ".writing-step-12" / "state.safetensors", 1000)

    def all_of(change):
        return lambda folder: [change(path) for path in folder.glob("step-*/state.safetensors")]

    def all_gone(folder):
        for path in folder.glob("step-*"):
            shutil.rmtree(path)

    used = r"warning: .*step-9 {}.*step-6, the one before, is used"
    for name, change, said in (
        ("last state cut in half", on_file(halved), r"has a state.safetensors of [\d,]+ bytes"),
        ("a bit of it flipped", on_file(flip), "has a state.safetensors with a wrong checksum"),
        ("it is empty", on_file(lambda p: os.truncate(p, 0)), r"has a state.safetensors of 0 "),
        ("it is deleted", on_file(os.unlink), "has no state.safetensors"),
        ("its manifest is empty", on_file(lambda p: os.truncate(p, 0), "manifest.json"), "has a d"),
        ("its manifest is deleted", on_file(os.unlink, "manifest.json"), "has no manifest.json"),
        ("its folder is deleted", lambda f: shutil.rmtree(f / "step-9"), "is gone"),
    ):
        cases.damaged(name, change, 0, used.format(said))
    cases.damaged("half of another one is there", half_written, 0, "^going on after step 9")
    none = r"^error: No checkpoint in \S+ can be used: step-9 .*; step-6 .*; step-3 "
    cases.damaged("all states damaged", all_of(flip), 1, none)
    cases.damaged("all states deleted", all_gone, 1, none)
    best = on_file(flip, state="best/step-9")
    used = "warning: .*step-9 has .*step-6, the one before, is used"
    cases.damaged("best weights damaged", best, 0, used, "--mode=eval")
    lost = "warning: the best weights, those of step 9, cannot be read"
    cases.damaged("all best weights damaged", lambda f: all_of(flip)(f / "best"), 0, lost)


def other_models(cases: Cases):
    other = cases.begun.parent / "other"
    cases.start(other, "--max_steps=9", "--feed_forward_dim=32")

    def exchanged(folder):
        shutil.rmtree(folder)
        shutil.copytree(other / "checkpoints", folder)

    message = r"^error: The checkpoint \S+ is of another model.*float32 \[32.*there, .*here"
    cases.damaged("checkpoints of another model", exchanged, 1, message)
    message = "^error: .*feed_forward_dim is 64 there, 32 now"
    cases.damaged("flags of another model", lambda f: None, 2, message, "--feed_forward_dim=32")


def full_disks(cases: Cases):
    for name, room, code, message in (
        (
            "no room for a checkpoint",
            _SMALL_FILES,
            1,
            r"^error: The checkpoint of step 1\d cannot be written.*No space left on device.*"
            "takes .* MB are free.*step 9 is whole",
        ),
        # Refused while the run's settings are written, so before anything is computed.
        ("no room at all", 0, 1, r"^error: .*No space left on device"),
    ):
        place = cases.begun.parent / "full"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], check=True)
        try:
            workdir = place / "run"
            shutil.copytree(cases.begun, workdir)
            filler = place / "filler"
            filler.write_bytes(b"0" * (shutil.disk_usage(place).free - room))
            cases.add(name, cases.start(workdir), code, message)
            filler.unlink()
            cases.add("then with room again", cases.start(workdir), 0, "^going on after step 9")
        finally:
            # Lazily, for files of the run that failed are still open in this process.
            subprocess.run(["umount", "-l", place], check=True)
            place.rmdir()


def read_only(cases: Cases):
    user = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    environment = {**os.environ, "HOME": "/nonexistent", "MPLCONFIGDIR": tempfile.gettempdir()}
    for name, workdir in (
        ("a workdir of another user", cases.copy()),
        ("a folder of another user to make it in", cases.begun.parent / "new"),
    ):
        result = subprocess.run(
            [*user, sys.executable, "train.py", *cases.arguments(workdir)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        found = result.returncode, result.stdout + result.stderr
        cases.add(
            name, found, 2, r"^error: --workdir=\S+ cannot be written to: .*Permission denied"
        )


if __name__ == "__main__":
    sys.exit(main())
