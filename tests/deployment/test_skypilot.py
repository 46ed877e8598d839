"""The SkyPilot files against SkyPilot's own schema."""

import importlib
import importlib.util
import sys
import types
import unittest
from pathlib import Path

import jsonschema

from common import DEPLOY, load

FILES = sorted((DEPLOY / "skypilot").glob("*.yaml"))


def schemas():
    """SkyPilot's schemas, without the rest of it and what that depends on."""
    if "sky" not in sys.modules:
        package = types.ModuleType("sky")
        package.__path__ = list(importlib.util.find_spec("sky").submodule_search_locations)
        package.__version__, package.__commit__ = "0", ""
        sys.modules["sky"] = package
        for alone in ("sky.skylet", "sky.utils", "sky.setup_files"):
            module = types.ModuleType(alone)
            module.__path__ = [str(Path(package.__path__[0]) / alone.split(".")[1])]
            sys.modules[alone] = module
            setattr(package, alone.split(".")[1], module)
        # It reaches for the whole program; the schemas want one list of it.
        stop = types.ModuleType("sky.skylet.autostop_lib")
        stop.AutostopWaitFor = types.SimpleNamespace(supported_modes=lambda: ["jobs_and_ssh", "jobs", "none"])
        sys.modules["sky.skylet.autostop_lib"] = stop
        sys.modules["sky.skylet"].autostop_lib = stop
    found = importlib.import_module("sky.utils.schemas")
    # Of a section `config`, which needs the whole program too and which none of our files has.
    found._task_config_schema = lambda: False
    return found


class SkyPilot(unittest.TestCase):
    def test_schema(self):
        self.assertEqual([file.name for file in FILES], ["coordinator.yaml", "pool.yaml", "worker.yaml"])
        for file in FILES:
            task = load(file)
            with self.subTest(file=file.name):
                jsonschema.validate(task, schemas().get_task_schema())
                jsonschema.validate(task["resources"], schemas().get_resources_schema())

    def test_a_machine_of_a_pool_has_what_a_worker_needs(self):
        pool, worker = (load(DEPLOY / f"skypilot/{name}.yaml") for name in ("pool", "worker"))
        # SkyPilot leaves these of a job out when it goes to a pool.
        for key in ("setup", "file_mounts", "resources"):
            theirs = {name: value for name, value in worker[key].items() if name != "job_recovery"} if key == "resources" else worker[key]
            self.assertEqual(pool[key], theirs, key)

    def test_what_must_be_given_stands_in_the_command(self):
        for file in FILES:
            head = file.read_text().partition("\nresources:")[0]
            task = load(file)
            for option in ("env", "secret"):
                for name, value in task.get(f"{option}s", {}).items():
                    if not value:
                        self.assertIn(f"--{option} {name}", head, file.name)

    def test_the_coordinator_has_the_database_that_is_named(self):
        task = load(DEPLOY / "skypilot/coordinator.yaml")
        for script in (task["setup"], task["run"]):
            # An option would go before the variable SANAFARM_DATABASE.
            self.assertNotIn("--data ", script)
            self.assertIn("export SANAFARM_DATA=", script)

    def test_a_mistake_is_found(self):
        task = load(FILES[0])
        task["resources"]["acelerators"] = "H100:1"
        with self.assertRaises(jsonschema.ValidationError):
            jsonschema.validate(task["resources"], schemas().get_resources_schema())


if __name__ == "__main__":
    unittest.main()
