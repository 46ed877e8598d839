"""deploy/slurm/worker.sbatch, run as Slurm runs it, with a worker and a scontrol that write down what they are told."""

import os
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path

from common import DEPLOY

SCRIPT = DEPLOY / "slurm/worker.sbatch"

# Leaves when it is told, as a worker does, with the exit code that it is given.
WORKER = """#!/usr/bin/env bash
printf '%s\\n' "$*" >"$OUT/arguments"
trap 'echo told >>"$OUT/signals"; exit $LEAVE_WITH' TERM
mkfifo "$OUT/never"
echo ready >"$OUT/ready"
[[ $STAY == no ]] && exit "$LEAVE_WITH"
read -r _ <>"$OUT/never"
"""
SCONTROL = """#!/usr/bin/env bash
printf '%s\\n' "$*" >>"$OUT/scontrol"
"""


class Slurm(unittest.TestCase):
    def setUp(self):
        kept = tempfile.TemporaryDirectory()
        self.addCleanup(kept.cleanup)
        self.out = Path(kept.name)
        programs = self.out / "bin"
        programs.mkdir()
        for name, text in (("sanafarm", WORKER), ("scontrol", SCONTROL)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        # Opening it to read waits until the worker writes.
        os.mkfifo(self.out / "ready")

    def start(self, code=0, stay="yes", **more):
        environment = {
            "PATH": f"{self.out}/bin:/usr/bin:/bin",
            "HOME": str(self.out),
            "OUT": str(self.out),
            "LEAVE_WITH": str(code),
            "STAY": stay,
            "SANAFARM_COORDINATOR": "https://farm.example:7070",
            "SLURM_JOB_ID": "20",
            "SLURM_ARRAY_JOB_ID": "17",
            "SLURM_ARRAY_TASK_ID": "3",
            **more,
        }
        said = (self.out / "said").open("w")
        self.addCleanup(said.close)
        started = subprocess.Popen(["/bin/bash", SCRIPT], env=environment, stderr=said)
        self.addCleanup(started.kill)
        return started

    def said(self, name):
        file = self.out / name
        return file.read_text().splitlines() if file.exists() else []

    def run_until_ready(self, **how):
        started = self.start(**how)
        self.assertEqual((self.out / "ready").read_text(), "ready\n")
        return started

    def test_before_the_time_limit_it_drains_and_is_queued_again(self):
        script = self.run_until_ready()
        script.send_signal(signal.SIGTERM)
        self.assertEqual(script.wait(timeout=20), 0)
        self.assertEqual(self.said("signals"), ["told"])
        self.assertEqual(self.said("scontrol"), ["requeue 17_3"])
        self.assertIn("--name slurm-17_3 ", self.said("arguments")[0])

    def test_when_there_is_no_more_work_it_ends(self):
        script = self.run_until_ready(stay="no")
        self.assertEqual(script.wait(timeout=20), 0)
        self.assertEqual(self.said("scontrol"), [])

    def test_a_node_without_a_device_is_not_tried_again(self):
        script = self.run_until_ready(code=3)
        script.send_signal(signal.SIGTERM)
        self.assertEqual(script.wait(timeout=20), 3)
        self.assertEqual(self.said("scontrol"), [])

    def test_it_asks_for_a_coordinator(self):
        script = self.start(SANAFARM_COORDINATOR="")
        self.assertNotEqual(script.wait(timeout=20), 0)
        self.assertIn("name the coordinator", self.said("said")[0])


if __name__ == "__main__":
    unittest.main()
