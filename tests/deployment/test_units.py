"""systemd units, and shell scripts all over the repository."""

import configparser
import re
import tempfile
import unittest
from pathlib import Path

from common import DEPLOY, files, load, run, shell_scripts

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def verify(unit, folder):
    """What systemd says about a unit, with a program and a manual page in the places that it names."""
    text = unit.read_text().replace("/usr/bin/sanafarm", "/bin/true").replace("Documentation=man:sanafarm(1)\n", "")
    copy = Path(folder) / unit.name
    copy.write_text(text)
    code, output = run("systemd-analyze", "verify", "--man=no", copy)
    return output if output.strip() or code else ""


class Units(unittest.TestCase):
    def test_systemd_understands_them(self):
        self.assertEqual(len(UNITS), 2)
        with tempfile.TemporaryDirectory() as folder:
            for unit in UNITS:
                self.assertEqual(verify(unit, folder), "", unit.name)

    def test_they_are_confined(self):
        for unit in UNITS:
            code, output = run("systemd-analyze", "security", "--offline=true", "--threshold=40", unit)
            self.assertEqual(code, 0, output)

    def test_a_worker_without_devices_is_not_started_again(self):
        parser = configparser.RawConfigParser(strict=False)
        parser.optionxform = str
        parser.read(DEPLOY / "systemd/sanafarm-worker@.service")
        self.assertIn("3", parser["Service"]["RestartPreventExitStatus"].split())
        self.assertEqual(parser["Service"]["Restart"], "on-failure")

    def test_a_mistake_is_found(self):
        with tempfile.TemporaryDirectory() as folder:
            bad = Path(folder) / "source.service"
            bad.write_text(UNITS[0].read_text().replace("RestartSec=2", "RestartSecond=2"))
            (Path(folder) / "out").mkdir()
            self.assertIn("RestartSecond", verify(bad, Path(folder) / "out"))


class Shell(unittest.TestCase):
    def test_shellcheck_has_nothing_to_say(self):
        scripts = list(shell_scripts())
        names = {script.name for script in scripts}
        self.assertLessEqual({"worker.sbatch", "make-secrets", "setup", "deploy"}, names)
        code, output = run("shellcheck", "--external-sources", *scripts)
        self.assertEqual(code, 0, output)

    def test_scripts_in_skypilot_files_are_clean(self):
        for file in sorted((DEPLOY / "skypilot").glob("*.yaml")):
            for part in ("setup", "run"):
                script = load(file).get(part)
                if script:
                    code, output = run("shellcheck", "--shell=bash", "--exclude=SC2088", "-", input=script)
                    self.assertEqual(code, 0, f"{file.name} {part}\n{output}")

    def test_shellcheck_would_find_something(self):
        code, output = run("shellcheck", "--shell=bash", "-", input="rm -rf $1/x\n")
        self.assertNotEqual(code, 0)
        self.assertIn("SC2086", output)


class Places(unittest.TestCase):
    def test_no_deploy_file_names_a_place_of_this_machine(self):
        for path in files(DEPLOY):
            self.assertIsNone(re.search(r"/home/|/root/", path.read_text()), path)


if __name__ == "__main__":
    unittest.main()
