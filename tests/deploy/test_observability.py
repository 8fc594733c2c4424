"""Rules, routes and dashboards: they are what their tools take, each alert is tested and explained, and no name in them is made up."""

import json
import re
import subprocess

import pytest
import yaml
from conftest import DEPLOY, TOP
from exposition import label_names, names, problems

OBSERVABILITY = DEPLOY / "observability"
RULES = OBSERVABILITY / "rules"
ALERTS = [rule for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
RECORDING = [rule for group in yaml.safe_load((RULES / "recording.yml").read_text())["groups"] for rule in group["rules"]]
DASHBOARDS = sorted((OBSERVABILITY / "dashboards").glob("*.json"))
# What Prometheus adds to every target by itself.
SCRAPED = {"up"}
ADDED_LABELS = {"job", "instance", "region", "le"}
METRIC = re.compile(r"\b(?:meridian|etcd)_[a-z0-9_]+\b|\b[a-z]+:[a-z0-9_]+:[a-z0-9_]+\b|\bup\b")
TEXT = re.compile(r'"[^"]*"')


def tool(*words, text=None):
    done = subprocess.run(words, input=text, capture_output=True, text=True, cwd=RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expressions():
    for rule in ALERTS + RECORDING:
        yield rule.get("alert") or rule["record"], rule["expr"]
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", target["expr"]


@pytest.mark.parametrize("role", ["control-plane", "edge"])
def test_the_metrics_are_what_prometheus_reads(metrics, role):
    checked = subprocess.run(["promtool", "check", "metrics"], input=metrics[role], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert problems(metrics[role]) == []


def test_no_label_grows_with_rooms_or_people(metrics):
    labels = set().union(*(found for text in metrics.values() for found in label_names(text).values()))
    assert labels <= {"le", "reason", "direction", "transport", "protocol", "kind", "outcome", "choice", "node", "peer"}, labels


def test_prometheus_and_alertmanager_take_the_files():
    tool("promtool", "check", "rules", "recording.yml", "alerts.yml")
    # Checks the rule files that it names, too; the targets are written where it runs.
    tool("promtool", "check", "config", "--syntax-only", "../prometheus.yml")
    tool("amtool", "check-config", "../alertmanager.yml")


def test_alerts_fire_and_keep_quiet_as_their_tests_say():
    assert "SUCCESS" in tool("promtool", "test", "rules", "alerts_test.yml")
    tests = yaml.safe_load((RULES / "alerts_test.yml").read_text())["tests"]
    tested = {test["name"] for test in tests}
    for alert in (rule["alert"] for rule in ALERTS):
        assert f"{alert} fires" in tested
        assert alert == "Watchdog" or f"{alert} keeps quiet" in tested


def test_every_alert_has_a_runbook_and_reaches_somebody():
    sections = re.findall(r"^### (\w+)$", (TOP / "docs/runbooks.md").read_text(), re.M)
    assert sorted(sections) == sorted(rule["alert"] for rule in ALERTS)
    for rule in ALERTS:
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{rule['alert'].lower()}"
        labels = {"alertname": rule["alert"], **rule["labels"]}
        words = [f"{name}={value}" for name, value in labels.items()]
        expected = {"page": "pages", "ticket": "tickets", "none": "dead-mans-switch"}[rule["labels"]["severity"]]
        routed = tool("amtool", "config", "routes", "test", "--config.file=../alertmanager.yml", *words).strip()
        assert routed == expected, rule["alert"]
    named = re.findall(r'alertname =~? "(.*?)"', (OBSERVABILITY / "alertmanager.yml").read_text())
    assert set("|".join(named).split("|")) <= {rule["alert"] for rule in ALERTS}


def test_every_name_in_rules_and_dashboards_exists(metrics, etcd_metrics):
    known = SCRAPED | names(metrics["control-plane"]) | names(metrics["edge"]) | names(etcd_metrics)
    known |= {rule["record"] for rule in RECORDING}
    labels = {}
    for text in [*metrics.values(), etcd_metrics]:
        for name, found in label_names(text).items():
            labels.setdefault(name, set()).update(found)
    for where, expression in expressions():
        bare = TEXT.sub('""', expression)
        used = METRIC.findall(bare)
        assert used or where == "Watchdog", f"{where} asks for nothing"
        for name in used:
            assert name in known, f"{where}: there is no metric {name}"
        for name, matchers in re.findall(r"([a-z_:]+)\{([^}]*)\}", bare):
            for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers):
                assert label in labels.get(name, set()) | ADDED_LABELS, f"{where}: {name} has no label {label}"
        every = ADDED_LABELS | set().union(*labels.values())
        for label in re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", bare))):
            assert label in every, f"{where}: nothing has a label {label}"


def test_every_counter_of_trouble_is_shown_or_alerted():
    """What is worth counting as lost is worth somebody's look; the rest is named here with its reason."""
    asked = " ".join(expression for _, expression in expressions())
    for name in (
        "meridian_media_panics_total",
        "meridian_media_drop_send_full_total",
        "meridian_mesh_requests_dropped_total",
        "meridian_recording_lost_segments_total",
        "meridian_log_lines_dropped_total",
        "meridian_signal_sockets_dropped_total",
        "meridian_turn_refused_total",
    ):
        assert name in asked, name


def test_dashboards_ask_what_prometheus_understands(tmp_path):
    rules = [{"record": f"dashboard:{number}", "expr": expression} for number, (_, expression) in enumerate(expressions())]
    for rule in rules:
        # What Grafana puts in before it asks.
        rule["expr"] = rule["expr"].replace("$instance", ".*")
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    tool("promtool", "check", "rules", str(tmp_path / "rules.yml"))


def test_dashboards_are_whole():
    uids = set()
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        assert board["uid"] not in uids
        uids.add(board["uid"])
        variables = {variable["name"] for variable in board["templating"]["list"]}
        used = set(re.findall(r"\$\{?(\w+)", path.read_text()))
        assert used <= variables, f"{path.name}: {used - variables}"
        taken = set()
        for panel in board["panels"]:
            box = panel["gridPos"]
            assert box["x"] + box["w"] <= 24, f"{path.name}: {panel['title']} hangs over"
            cells = {(x, y) for x in range(box["x"], box["x"] + box["w"]) for y in range(box["y"], box["y"] + box["h"])}
            assert not cells & taken, f"{path.name}: {panel['title']} covers another"
            taken |= cells
            unit = panel["fieldConfig"]["defaults"]["unit"]
            assert unit, f"{path.name}: {panel['title']} has no unit"
