"""The Helm chart, rendered by Helm itself and held against the schemas of Kubernetes and of what else it makes resources of."""

import copy
import json
import unittest
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml

from common import DEPLOY, run

CHART = DEPLOY / "helm/sanafarm"
# Of Kubernetes: the oldest that the chart takes, and a new one.
VERSIONS = ["1.30", "1.37"]
OTHERS = ("keda.sh/", "monitoring.coreos.com/", "external-secrets.io/")

PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "batch"}}}
GPU = {
    "name": "h100",
    "repository": "sanafarm/worker-cuda",
    "devices": "all",
    "gpus": 2,
    "labels": {"zone": "eu", "gpu": "h100"},
    "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "autoscale": {"enabled": True, "max": 16, "deviceKind": "cuda", "memory": "80GB", "model": "hf:owner/name"},
}
EVERYTHING = {
    "image": {"registry": "registry.example.com/", "tag": "1.2.3"},
    "imagePullSecrets": ["registry"],
    "coordinator": {
        "objectStoreSecret": "bucket",
        "webhookHosts": ["hooks.example.com", "other.example.com"],
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/farm"}},
        "extraEnv": [{"name": "PGSSLROOTCERT", "value": "/etc/db/ca.crt"}],
        "extraVolumes": [{"name": "db", "secret": {"secretName": "db-ca"}}],
        "extraVolumeMounts": [{"name": "db", "mountPath": "/etc/db"}],
        "nodeSelector": {"a": "b"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "podAnnotations": {"a": "b"},
    },
    "tls": {"clientCaSecret": "sanafarm-ca", "caSecret": "sanafarm-ca"},
    "trace": {"endpoint": "http://collector:4317", "ratio": 0.5},
    "log": {"level": "info"},
    "pools": [
        {"name": "cpu", "storage": {"persistent": False}, "extraArgs": ["--max-lifetime=12h"], "cacheSize": "100GB"},
        {"name": "spot", "tokenSecret": "spot-worker", "spot": "aws", "environmentSecret": "hub"},
        GPU,
    ],
    "keda": {"enabled": True},
    "externalSecrets": {
        "enabled": True,
        "store": {"name": "vault"},
        "secrets": [
            {"name": "sanafarm-worker", "data": [{"secretKey": "token", "remoteRef": {"key": "farm", "property": "token"}}]}
        ],
    },
    "networkPolicy": {
        "clients": [PEER],
        "egress": {
            "enabled": True,
            "coordinator": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 5432}]}],
            "worker": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]}],
        },
    },
    "monitoring": {"enabled": True, "labels": {"release": "prometheus"}},
}
ALL = {"as it is": {}, "everything": EVERYTHING, "insecure": {"insecure": True, "keda": {"enabled": True}, "pools": [GPU]}}


def render(values, name="farm"):
    """Every resource, and the notes."""
    with helm_python.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        rendered = chart.render(values, name=name, namespace="render")
    resources = []
    for path, text in rendered.items():
        if not path.endswith(".txt"):
            resources += [resource for resource in yaml.safe_load_all(text) if resource]
    return resources


def faults(resources):
    """What the schemas say."""
    others = [resource for resource in resources if resource["apiVersion"].startswith(OTHERS)]
    found = []
    for resource in resources:
        if resource not in others:
            for version in VERSIONS:
                try:
                    kubernetes_validate.validate(resource, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    found.append(f"{resource['kind']} {resource['metadata']['name']} ({version}): {error.message}")
    if others:
        code, output = run("node", Path(__file__).with_name("crds.mjs"), input=json.dumps(others))
        if code:
            found += output.splitlines()
    return found


def kind(resources, kind, end=""):
    return [one for one in resources if one["kind"] == kind and one["metadata"]["name"].endswith(end)]


def pods(resources):
    for one in resources:
        if one["kind"] == "Pod":
            yield one["metadata"]["name"], one["spec"]
        elif one["kind"] in ("Deployment", "StatefulSet"):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


class Helm(unittest.TestCase):
    maxDiff = None

    def test_lint(self):
        self.assertEqual(helm_python.lint(str(CHART))["errors"], [])

    def test_resources_are_what_kubernetes_knows(self):
        for name, values in ALL.items():
            with self.subTest(values=name):
                self.assertEqual(faults(render(values)), [])

    def test_a_misspelt_field_is_found(self):
        resources = render(EVERYTHING)
        kind(resources, "Deployment", "coordinator")[0]["spec"]["replica"] = 2
        kind(resources, "ScaledObject")[0]["spec"]["scaleTargetRef"].pop("name")
        kind(resources, "ServiceMonitor")[0]["spec"]["endpoints"] = "http"
        kind(resources, "ExternalSecret")[0]["spec"]["data"][0].pop("secretKey")
        self.assertEqual(len(faults(resources)), len(VERSIONS) + 3)

    def test_every_value_has_a_default_and_a_schema(self):
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        schema = json.loads((CHART / "values.schema.json").read_text())

        def compare(schema, value, at):
            if isinstance(value, dict) and schema.get("additionalProperties") is False:
                missing = {"global"} if at == "" else set()
                self.assertEqual(set(schema["properties"]) - missing, set(value), at)
                for key in value:
                    compare(schema["properties"][key], value[key], f"{at}.{key}")

        compare(schema, values, "")

    def test_wrong_values_are_refused(self):
        wrong = {
            "an unknown key": {"coordinator": {"replica": 3}},
            "an unknown key of a pool": {"pools": [{"name": "a", "gpu": 1}]},
            "a pool without a name": {"pools": [{"replicas": 1}]},
            "a size that is none": {"pools": [{"name": "a", "outboxSize": "many"}]},
            "two pools of one name": {"pools": [{"name": "a"}, {"name": "a"}]},
            "autoscaling without KEDA": {"pools": [{"name": "a", "autoscale": {"enabled": True}}]},
            "KEDA without client certificates": {"keda": {"enabled": True}},
            "less than the least": {
                "keda": {"enabled": True},
                "tls": {"clientCaSecret": "ca"},
                "pools": [{"name": "a", "autoscale": {"enabled": True, "min": 3, "max": 2}}],
            },
            "secrets from nowhere": {"externalSecrets": {"enabled": True}},
        }
        for name, values in wrong.items():
            with self.subTest(name), self.assertRaises(helm_python.HelmError):
                render(values)

    def test_pods_are_restricted(self):
        for values in ALL.values():
            for name, pod in pods(render(values)):
                with self.subTest(name):
                    self.assertTrue(pod["securityContext"]["runAsNonRoot"])
                    self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                    self.assertFalse(pod["automountServiceAccountToken"])
                    for container in pod["containers"]:
                        self.assertTrue(container["securityContext"]["readOnlyRootFilesystem"])
                        self.assertFalse(container["securityContext"]["allowPrivilegeEscalation"])
                        self.assertEqual(container["securityContext"]["capabilities"], {"drop": ["ALL"]})
                        self.assertIn("memory", container["resources"]["limits"])
                        if pod.get("restartPolicy") != "Never":
                            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                                self.assertIn(probe, container)

    def test_what_is_mounted_is_there(self):
        for values in ALL.values():
            resources = render(values)
            claims = {"data"}
            for name, pod in pods(resources):
                volumes = {volume["name"] for volume in pod.get("volumes", [])}
                mounts = [mount for container in pod["containers"] for mount in container.get("volumeMounts", [])]
                self.assertLessEqual({mount["name"] for mount in mounts}, volumes | claims, name)
                for argument in pod["containers"][0]["args"]:
                    path = argument.partition("=/")[2]
                    if path:
                        self.assertTrue(any(f"/{path}".startswith(mount["mountPath"]) for mount in mounts), argument)

    def test_a_farm_is_closed_unless_told(self):
        (coordinator,) = kind(render({}), "Deployment", "coordinator")
        arguments = coordinator["spec"]["template"]["spec"]["containers"][0]["args"]
        self.assertIn("--auth=tokens", arguments)
        self.assertNotIn("--insecure", arguments)
        self.assertEqual(len(kind(render({}), "NetworkPolicy")), 2)
        for probe in ("livenessProbe", "readinessProbe"):
            self.assertEqual(coordinator["spec"]["template"]["spec"]["containers"][0][probe]["httpGet"]["scheme"], "HTTPS")

    def test_a_pool_of_gpus_that_scales(self):
        resources = render(EVERYTHING)
        (pool,) = kind(resources, "StatefulSet", "-h100")
        self.assertNotIn("replicas", pool["spec"])
        pod = pool["spec"]["template"]["spec"]
        self.assertEqual(pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"], 2)
        self.assertEqual(pod["nodeSelector"], GPU["nodeSelector"])
        self.assertIn("--label=gpu=h100", pod["containers"][0]["args"])
        (scaled,) = kind(resources, "ScaledObject")
        self.assertEqual(scaled["spec"]["scaleTargetRef"]["name"], pool["metadata"]["name"])
        self.assertEqual(
            scaled["spec"]["triggers"][0]["metadata"],
            {
                "scalerAddress": "farm-sanafarm-coordinator.render.svc:7070",
                # For each of two GPUs.
                "targetSeconds": "1200",
                "enableTLS": "true",
                "model": "hf:owner/name",
                "labels": "gpu=h100,zone=eu",
                "memory": "80GB",
                "deviceKind": "cuda",
            },
        )

    def test_workers_have_time_to_drain(self):
        for values in ALL.values():
            for name, pod in pods(render(values)):
                for argument in pod["containers"][0]["args"]:
                    if argument.startswith("--drain-timeout="):
                        drain = int(argument.partition("=")[2].removesuffix("s"))
                        self.assertGreater(pod["terminationGracePeriodSeconds"], 2 * drain, name)

    def test_names_fit_however_long_the_release_is(self):
        values = copy.deepcopy(EVERYTHING)
        values["pools"][2]["name"] = "p" * 20
        for resource in render(values, name="a" * 53):
            self.assertLessEqual(len(resource["metadata"]["name"]), 63)


if __name__ == "__main__":
    unittest.main()
