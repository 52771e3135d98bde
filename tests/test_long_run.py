"""The reading of a long run's reports."""

import json

import pytest

from benchmarks.long_run import main


def run(tmp_path, growth, fall):
    """An hour with a report a minute; memory grows by `growth` in the last 20 minutes."""
    lines = []
    for minute in range(61):
        late = max(0, minute - 40) / 20
        lines.append(
            {
                "step": minute,
                "split": "train",
                "time": 1e9 + 60 * minute,
                "memory_gb": 2.0 * (1 + growth * late) if minute else 0.5,
                "tokens_per_second": 1000.0 * (1 - fall * (minute >= 40)),
            }
        )
        lines.append({"step": minute, "split": "valid", "time": 1e9 + 60 * minute})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code = main([str(tmp_path), f"--json={tmp_path}/out.json", f"--plot={tmp_path}/out.png"])
    return code, json.loads((tmp_path / "out.json").read_text())


@pytest.mark.parametrize(
    ("growth", "fall", "code"), [(0.009, 0.0, 0), (0.011, 0.0, 1), (-0.2, 0.04, 0), (0.0, 0.06, 1)]
)
def test_growth_and_fall_by_hand(tmp_path, growth, fall, code):
    ended, figures = run(tmp_path, growth, fall)
    assert figures["memory_growth"] == pytest.approx(growth, abs=1e-9)
    assert figures["speed_change"] == pytest.approx(-fall, abs=1e-9)
    assert figures["minutes"] == pytest.approx(60)
    assert ended == code
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_a_short_run_tells_nothing(tmp_path):
    with pytest.raises(ValueError, match="longer than the window"):
        (tmp_path / "metrics.jsonl").write_text(
            json.dumps(
                {"split": "train", "time": 1, "step": 1, "memory_gb": 1, "tokens_per_second": 1}
            )
        )
        main([str(tmp_path)])
