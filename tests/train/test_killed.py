"""kill -9 at some moment of each eighth: every resumed run ends in the weights and metrics of an uninterrupted one."""

import json
import os
import subprocess
import sys
from pathlib import Path

TIMES = 8


def test_every_resume_ends_in_the_same_weights_bit_for_bit(tmp_path):
    script = Path(__file__).with_name("kill_at_random.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-W", "ignore", script, tmp_path, str(TIMES)]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr
    outcomes = json.loads(finished.stdout)
    assert len(outcomes) == TIMES
    for outcome in outcomes:
        assert outcome["resumed"] == 0, outcome
        assert outcome["same"], outcome
    # Moments before the first checkpoint and after the last step are few.
    assert sum("continuing after step" in outcome["continued"] for outcome in outcomes) >= TIMES // 4
