"""deploy/compose.yaml: its schema, and that everything it names is there."""

import copy
import importlib.resources
import json
import re
import shutil
import tempfile
import unittest
from pathlib import Path

import jsonschema

from common import DEPLOY, ROOT, load, run

SCHEMA = importlib.resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"


def health_of_image(service, folder):
    """Whether the Dockerfile that it is built from has a health check."""
    build = service.get("build")
    return bool(build) and "HEALTHCHECK" in (folder / build["context"] / build["dockerfile"]).read_text()


def faults(compose, folder):
    """What does not fit together."""
    found = []
    services = compose["services"]
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                if not (folder / source).exists():
                    found.append(f"{name}: {source} is not there")
            elif source not in compose["volumes"]:
                found.append(f"{name}: volume {source} is not declared")
        for secret in service.get("secrets", []):
            if secret not in compose["secrets"]:
                found.append(f"{name}: secret {secret} is not declared")
        for network in service.get("networks", []):
            if network not in compose["networks"]:
                found.append(f"{name}: network {network} is not declared")
        for file in service.get("env_file", []):
            if not (folder / file).is_file():
                found.append(f"{name}: {file} is not there")
        for other, how in service.get("depends_on", {}).items():
            if other not in services:
                found.append(f"{name}: depends on {other}, which is not there")
                continue
            healthy = services[other].get("healthcheck") or health_of_image(services[other], folder)
            if how["condition"] == "service_healthy" and not healthy:
                found.append(f"{name}: waits for the health of {other}, which has no check")
            if not set(service.get("networks", [])) & set(services[other].get("networks", [])):
                found.append(f"{name}: shares no network with {other}")
        if "build" in service and not (folder / service["build"]["context"] / service["build"]["dockerfile"]).is_file():
            found.append(f"{name}: no {service['build']['dockerfile']}")
        for port in service.get("ports", []):
            if not port.startswith("127.0.0.1:"):
                found.append(f"{name}: port {port} is open to everybody")
        if service["image"].endswith(":latest") and "build" not in service:
            found.append(f"{name}: {service['image']} is no version")
    for name, secret in compose["secrets"].items():
        if not (folder / secret["file"]).is_file():
            found.append(f"secret {name}: {secret['file']} is not there")
    return found


class Compose(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # With the secrets that the script makes, beside a copy: it writes into no checkout.
        cls.folder = tempfile.TemporaryDirectory()
        root = Path(cls.folder.name)
        shutil.copytree(DEPLOY, root / "deploy", ignore=shutil.ignore_patterns("secrets"))
        shutil.copytree(ROOT / "examples", root / "examples")
        cls.deploy = root / "deploy"
        code, output = run(cls.deploy / "compose/make-secrets")
        assert code == 0, output
        cls.compose = load(DEPLOY / "compose.yaml")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_schema(self):
        jsonschema.validate(self.compose, json.loads(SCHEMA.read_text()))

    def test_everything_it_names_is_there(self):
        self.assertEqual(faults(self.compose, self.deploy), [])

    def test_a_second_run_keeps_the_secrets(self):
        secrets = self.deploy / "secrets"
        before = {file.name: file.read_text() for file in secrets.iterdir()}
        code, output = run(self.deploy / "compose/make-secrets")
        self.assertEqual(code, 0, output)
        self.assertEqual({file.name: file.read_text() for file in secrets.iterdir()}, before)
        self.assertEqual(len(before), 4)
        self.assertEqual(secrets.stat().st_mode & 0o777, 0o700)
        self.assertRegex(before["coordinator.toml"], r'database = "postgres://sanafarm:[0-9a-f]{64}@postgres/sanafarm"')
        self.assertIn(before["postgres_password"].strip(), before["coordinator.toml"])
        self.assertIn("secrets", (DEPLOY / ".gitignore").read_text())

    def test_workers_have_time_to_drain(self):
        for name, service in self.compose["services"].items():
            if name.startswith("worker"):
                drain = int(service["environment"]["SANAFARM_DRAIN_TIMEOUT"].removesuffix("s"))
                grace = 60 * int(service["stop_grace_period"].removesuffix("m"))
                self.assertGreater(grace, 2 * drain, name)

    def test_no_secret_stands_in_it(self):
        text = (DEPLOY / "compose.yaml").read_text()
        self.assertIsNone(re.search(r"(?im)^\s*\w*(password|secret_key|token)\w*:\s*[\"']?(?!/)[^\s\"'$\[{]", text))

    def test_faults_are_found(self):
        def broken(change):
            compose = copy.deepcopy(self.compose)
            change(compose["services"])
            return faults(compose, self.deploy)

        self.assertTrue(broken(lambda all: all["grafana"].update(volumes=["nowhere:/x"])))
        self.assertTrue(broken(lambda all: all["grafana"].update(volumes=["./nowhere:/x"])))
        self.assertTrue(broken(lambda all: all["grafana"].update(secrets=["nowhere"])))
        self.assertTrue(broken(lambda all: all["redis"].pop("healthcheck")))
        self.assertTrue(broken(lambda all: all["coordinator"]["depends_on"].update(nobody={"condition": "service_started"})))
        self.assertTrue(broken(lambda all: all["coordinator"].update(ports=["7070:7070"])))
        self.assertTrue(broken(lambda all: all["coordinator"].update(networks=["front"])))
        with self.assertRaises(jsonschema.ValidationError):
            compose = copy.deepcopy(self.compose)
            compose["services"]["redis"]["imagee"] = "redis"
            jsonschema.validate(compose, json.loads(SCHEMA.read_text()))


if __name__ == "__main__":
    unittest.main()
