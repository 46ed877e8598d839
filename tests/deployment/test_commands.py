"""Commands, options and variables in deploy/ and docs/ against the generated reference of the command line."""

import re
import unittest

import test_helm
from commands import faults, variables, verbs
from common import DEPLOY, ROOT, files, load

FENCES = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Not options: of the health check's script, and names that these files make up for themselves.
OWN = {"SANAFARM_PROGRAM", "SANAFARM_STATE", "SANAFARM_HOST", "SANAFARM_RELEASE"}


class Commands(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.known = verbs()

    def test_commands_of_the_documentation(self):
        found = []
        for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")]:
            text = page.read_text()
            for block in FENCES.findall(text):
                found += [f"{page.relative_to(ROOT)}: {fault}" for fault in faults(block, self.known)]
            for code in re.findall(r"(?<!`)`(sanafarm [^`\n]+)`", FENCES.sub("", text)):
                found += [f"{page.relative_to(ROOT)}: {fault}" for fault in faults(code, self.known)]
        self.assertEqual(found, [])

    def test_commands_of_deploy_files(self):
        found = []
        for path in files(DEPLOY):
            if path.suffix != ".json":
                text = path.read_text().replace('"$program" ', "sanafarm ")
                found += [f"{path.relative_to(ROOT)}: {fault}" for fault in faults(text, self.known, sure=False)]
        self.assertEqual(found, [])

    def test_arguments_of_containers(self):
        lines = []
        for values in test_helm.ALL.values():
            lines += [" ".join(pod["containers"][0]["args"]) for _, pod in test_helm.pods(test_helm.render(values))]
        for service in load(DEPLOY / "compose.yaml")["services"].values():
            if "sanafarm/" in service["image"] and "command" in service:
                lines.append(" ".join(service["command"]))
        for file in DEPLOY.glob("docker/*.Dockerfile"):
            lines.append(" ".join(re.findall(r'"([^"]*)"', re.findall(r"(?m)^CMD (.*)", file.read_text())[-1])))
        found = [fault for line in lines for fault in faults(f"sanafarm {line}", self.known)]
        self.assertEqual(found, [])
        self.assertGreater(len(lines), 10)

    def test_variables(self):
        found = set()
        for path in files(DEPLOY):
            found |= set(re.findall(r"\bSANAFARM_[A-Z_]+", path.read_text()))
        self.assertEqual(found - OWN - variables(), set())

    def test_wrong_commands_are_found(self):
        for wrong in ("sanafarm wurker\n", "sanafarm worker --devises all\n", "x && sanafarm submit a.csv \\\n  --outptu b\n"):
            self.assertEqual(len(faults(wrong, self.known)), 1, wrong)
        self.assertEqual(faults("sanafarm sql \"select '--x'\" | head --lines 3\n", self.known), [])


if __name__ == "__main__":
    unittest.main()
