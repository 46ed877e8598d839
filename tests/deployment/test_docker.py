"""The Dockerfiles."""

import re
import shutil
import tempfile
import unittest
from pathlib import Path

from common import DEPLOY, ROOT, files, run

FILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))


def matches(path, pattern):
    """Whether a pattern of .dockerignore is for this path; a star stays within a folder."""
    regex = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
    return re.fullmatch(regex, str(path)) is not None


def last_stage(text):
    """Instructions of the image that comes out: (word, rest)."""
    text = re.sub(r"\\\n(\s*#.*\n)*", " ", text)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    words = [(line.split(None, 1)[0].upper(), line.split(None, 1)[1]) for line in lines]
    start = max(i for i, (word, _) in enumerate(words) if word == "FROM")
    return words[start:]


class Docker(unittest.TestCase):
    def test_hadolint_has_nothing_to_say(self):
        self.assertEqual(len(FILES), 3)
        for file in FILES:
            code, output = run("hadolint", file)
            self.assertEqual(code, 0, output)

    def test_images_are_confined_and_looked_after(self):
        for file in FILES:
            stage = last_stage(file.read_text())
            said = {}
            for word, rest in stage:
                said.setdefault(word, []).append(rest)
            with self.subTest(file=file.name):
                self.assertRegex(said["USER"][-1], r"^[1-9]\d*:[1-9]\d*$")
                self.assertIn("HEALTHCHECK", said)
                self.assertEqual(said["STOPSIGNAL"], ["SIGTERM"])
                self.assertEqual(said["ENTRYPOINT"], ['["sanafarm"]'])
                self.assertIn("org.opencontainers.image.licenses", " ".join(said["LABEL"]))
                # The compiler stays behind.
                self.assertNotIn("cargo", " ".join(said["RUN"]))

    def test_what_is_built_is_there(self):
        manifest = (ROOT / "cli/Cargo.toml").read_text()
        for file in FILES:
            build = re.search(r"cargo build (.*?)\\\n", file.read_text()).group(1)
            package = re.search(r"--package (\S+)", build).group(1)
            self.assertIn(f'name = "{package}"', manifest)
            for feature in re.findall(r"--features (\S+)", build):
                self.assertRegex(manifest, rf"(?m)^{feature} = ")

    def test_cargo_finds_its_manifests_in_what_docker_is_given(self):
        patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
        with tempfile.TemporaryDirectory() as folder:
            for file in files():
                name = file.relative_to(ROOT)
                # As Docker matches: from the root, a folder with all in it, and `**/` at any depth.
                parents = [name, *name.parents]
                if not any(matches(parent, pattern) for parent in parents for pattern in patterns):
                    (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, Path(folder) / name)
            self.assertFalse((Path(folder) / "docs").exists())
            code, output = run("cargo", "metadata", "--no-deps", "--offline", "--locked", "--format-version=1", cwd=folder)
        self.assertEqual(code, 0, output)

    def test_hadolint_would_find_something(self):
        with tempfile.TemporaryDirectory() as folder:
            bad = Path(folder) / "bad.Dockerfile"
            bad.write_text("FROM debian\nRUN cd /tmp && apt-get install curl\n")
            code, output = run("hadolint", bad)
        self.assertNotEqual(code, 0)
        self.assertIn("DL3006", output)


if __name__ == "__main__":
    unittest.main()
