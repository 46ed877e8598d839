"""Alerts, the dashboard, and the incident pages that belong to them."""

import json
import re
import shutil
import tempfile
import unittest
from pathlib import Path

from common import DEPLOY, ROOT, load, run
from metrics import GUIDE, faults, known

ALERTS = DEPLOY / "prometheus/alerts.yml"
DASHBOARD = DEPLOY / "grafana/dashboards/sanafarm.json"
PAGES = ROOT / "docs/operate/incidents.md"


def rules():
    return [rule for group in load(ALERTS)["groups"] for rule in group["rules"]]


def panels(dashboard):
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def queries(dashboard):
    """(panel, query, legend), those of the variables too."""
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"], target["legendFormat"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            yield variable["name"], f"max by ({label}) ({metric})", ""


class Alerts(unittest.TestCase):
    def test_promtool_understands_them(self):
        for command in (["check", "rules", ALERTS], ["check", "config", "--syntax-only", DEPLOY / "prometheus/prometheus.yml"]):
            code, output = run("promtool", *command)
            self.assertEqual(code, 0, output)

    def test_each_fires_when_it_should_and_only_then(self):
        code, output = run("promtool", "test", "rules", ALERTS.with_name("alerts_test.yml"))
        self.assertEqual(code, 0, output)
        tested = ALERTS.with_name("alerts_test.yml").read_text()
        for rule in rules():
            self.assertIn(f'alertname="{rule["alert"]}"', tested)

    def test_an_alert_that_never_fires_is_found(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("alerts.yml", "alerts_test.yml"):
                shutil.copy(ALERTS.with_name(name), folder)
            copy = Path(folder) / "alerts.yml"
            copy.write_text(copy.read_text().replace("sanafarm_worker_trouble", "sanafarm_worker_troubles"))
            code, output = run("promtool", "test", "rules", Path(folder) / "alerts_test.yml")
        self.assertNotEqual(code, 0)
        self.assertIn("SanafarmWorkerTrouble", output)

    def test_they_ask_for_what_is_there(self):
        for rule in rules():
            self.assertEqual(faults(rule["expr"]), [], rule["alert"])

    def test_they_are_tried_with_what_is_there(self):
        for test in load(ALERTS.with_name("alerts_test.yml"))["tests"]:
            for given in test["input_series"]:
                self.assertEqual(faults(given["series"]), [])

    def test_each_has_a_page_and_each_page_an_alert(self):
        pages = re.findall(r"(?m)^## (Sanafarm\w+)$", PAGES.read_text())
        self.assertEqual(sorted(pages), sorted(rule["alert"] for rule in rules()))
        for rule in rules():
            self.assertEqual(rule["annotations"]["runbook"], f"docs/operate/incidents.md#{rule['alert'].lower()}")
            self.assertIn(rule["labels"]["severity"], ("critical", "warning"))
            self.assertIn("summary", rule["annotations"])


class Dashboard(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dashboard = json.loads(DASHBOARD.read_text())

    def test_every_query_asks_for_what_is_there(self):
        found = [fault for _, query, _ in queries(self.dashboard) for fault in faults(query)]
        self.assertEqual(found, [])

    def test_every_metric_is_shown(self):
        text = " ".join(query for _, query, _ in queries(self.dashboard))
        self.assertEqual([name for name in known() if name not in text], [])

    def test_every_legend_names_a_label_of_its_query(self):
        for title, query, legend in queries(self.dashboard):
            grouped = re.findall(r"by \(([^)]*)\)", query)
            for label in re.findall(r"\{\{(\w+)\}\}", legend):
                if grouped:
                    self.assertIn(label, ", ".join(grouped), title)

    def test_panels_do_not_overlap(self):
        taken, ids = set(), set()
        for panel in panels(self.dashboard):
            place = panel["gridPos"]
            self.assertNotIn(panel["id"], ids)
            ids.add(panel["id"])
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
            self.assertFalse(cells & taken, panel["title"])
            self.assertLessEqual(place["x"] + place["w"], 24)
            taken |= cells

    def test_provisioning_finds_it(self):
        (provider,) = load(DEPLOY / "grafana/provisioning/dashboards/sanafarm.yaml")["providers"]
        mounts = load(DEPLOY / "compose.yaml")["services"]["grafana"]["volumes"]
        self.assertIn(f"./grafana/dashboards:{provider['options']['path']}:ro", mounts)
        (source,) = load(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")["datasources"]
        self.assertEqual(source["uid"], self.dashboard["templating"]["list"][0]["current"]["value"])


class Names(unittest.TestCase):
    def test_the_guide_is_understood(self):
        documented = set(re.findall(r"`(sanafarm_[a-z_]+)`", GUIDE.read_text()))
        self.assertEqual(documented, set(known()))
        self.assertIn("picture", known()["sanafarm_results_total"][1]["outcome"])

    def test_wrong_queries_are_found(self):
        wrong = [
            "sum(rate(sanafarm_claim_total[5m]))",
            'sum(sanafarm_results_total{result="picture"})',
            'sum(sanafarm_results_total{outcome="pictures"})',
            "max by (modell) (sanafarm_queue_images)",
            "sum(rate(sanafarm_claims_total[5m])",
            "sanafarm_claim_seconds",
            "histogram_quantile(0.9, rate(sanafarm_claims_total_bucket[5m]))",
            "sanafarm_workers / ignoring (x) sanafarm_nothing",
        ]
        for query in wrong:
            self.assertTrue(faults(query), query)
        self.assertEqual(faults("histogram_quantile(0.9, sum by (le) (rate(sanafarm_claim_seconds_bucket[$__rate_interval])))"), [])


if __name__ == "__main__":
    unittest.main()
