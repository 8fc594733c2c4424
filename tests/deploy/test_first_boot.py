"""The scripts of cloud-init really run, with stand-ins for what only a machine at AWS has; the program then reads what they wrote."""

import json
import os
import re
import subprocess

import pytest
from conftest import DEPLOY, TOP

MERIDIAN = TOP / "target/debug/meridian"
# What the metadata service and the Parameter Store would answer.
CURL = """#!/bin/sh
for last; do :; done
case "$*" in
  *--output*) while [ "$1" != --output ]; do shift; done; echo program >"$2" ;;
  *api/token*) echo a-token ;;
  *instance-id*) echo i-0123456789abcdef0 ;;
  *public-ipv4*) echo 203.0.113.7 ;;
  *local-ipv4*) echo 10.0.0.7 ;;
  *meta-data/ipv6*) echo 2001:db8::7 ;;
  *target-lifecycle-state*) echo "${LIFECYCLE:-InService}" ;;
  *) exit 22 ;;
esac
"""
AWS = """#!/bin/sh
echo "aws $*" >>"$CALLED"
case "$*" in
  *get-parameter*token*) echo a-token-of-more-than-24-characters ;;
  *get-parameter*) echo "-----BEGIN NOTHING-----" ;;
esac
"""
NOTED = """#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLED"
[ "$(basename "$0")" != blkid ] || echo 11111111-2222
"""


@pytest.fixture
def machine(tmp_path):
    """Runs a script as on a machine whose /etc/meridian, /var/lib/meridian and programs stand in a folder of the test's."""
    stubs, etc = tmp_path / "bin", tmp_path / "etc"
    for folder in (stubs, etc, tmp_path / "share"):
        folder.mkdir()
    noted = ["systemctl", "sysctl", "systemd-sysusers", "runuser", "chgrp", "chown", "mount", "blkid", "mkfs.xfs", "tar", "sha256sum"]
    for name, text in {"curl": CURL, "aws": AWS, "meridian": NOTED, **dict.fromkeys(noted, NOTED)}.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)

    def run(script, variables, **environment):
        (etc / "machine.env").write_text("".join(f"{name}='{value}'\n" for name, value in variables.items()))
        text = (DEPLOY / "cloud-init" / script).read_text()
        for old, new in {
            "/etc/meridian": str(etc),
            "/var/lib/meridian": str(tmp_path / "data"),
            "/usr/share/meridian": str(tmp_path / "share"),
            "/usr/bin/meridian": str(tmp_path / "program"),
            "/tmp/web.tar.gz": str(tmp_path / "web.tar.gz"),
            "/etc/fstab": str(tmp_path / "fstab"),
            "/dev/sdf /dev/xvdf /dev/nvme1n1": "/dev/null",
            "[ ! -b ": "[ ! -e ",
            "-o root -g meridian": "",
            "-o meridian -g meridian": "",
        }.items():
            text = text.replace(old, new)
        called = tmp_path / "called"
        called.write_text("")
        path = f"{stubs}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", text], env={"PATH": path, "CALLED": str(called), **environment}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return called.read_text()

    run.etc, run.folder = etc, tmp_path
    return run


def variables_of(template):
    text = (DEPLOY / "cloud-init" / template).read_text()
    names = re.findall(r"^      ([A-Z_0-9]+)='", text, re.M)
    return {name: f"/meridian/{name.lower()}" if name.startswith("SECRET") else name.lower() for name in names}


def configuration_is_good(role, file, **environment):
    done = subprocess.run([MERIDIAN, "doctor", role, "--json", "--config", file], env=environment, capture_output=True, text=True)
    findings = json.loads(done.stdout)["findings"]
    assert findings[0]["check"] == "configuration" and findings[0]["verdict"] == "good", findings[0]


EDGE = {
    "REGION": "fra",
    "CAPACITY": "2000",
    "CONTROL_PLANE_URL": "https://control.example.org:8090",
    "ETCD_ENDPOINTS": "http://etcd-1.example.org:2379,http://etcd-2.example.org:2379",
    "DOMAIN": "example.org",
    "GROUP": "meridian-fra",
}


def test_an_edge_writes_a_configuration_that_its_program_takes(machine):
    called = machine("edge-first-boot.sh", {**variables_of("edge.yaml.tftpl"), **EDGE})
    file = machine.etc / "edge.toml"
    text = file.read_text()
    assert 'id = "fra-0123456789abcdef0"' in text and 'advertise = ["203.0.113.7", "2001:db8::7"]' in text
    configuration_is_good("edge", file)
    assert file.stat().st_mode & 0o777 == 0o640
    assert (machine.etc / "tls/privkey.pem").stat().st_mode & 0o777 == 0o640
    assert "systemctl enable --now meridian-edge.service meridian-drain.timer" in called
    assert '"Name":"fra-0123456789abcdef0.example.org","Type":"AAAA"' in called
    # A token in a flag would stand in `ps`.
    enrolled = re.search(r"^meridian pki enrol .*$", called, re.M)[0]
    assert "a-token-of" not in called
    known = subprocess.run([MERIDIAN, "pki", "enrol", "--help"], capture_output=True, text=True, check=True).stdout
    assert all(flag in known for flag in re.findall(r"--[a-z-]+", enrolled))


def test_an_edge_leaves_only_when_it_is_to_go(machine):
    variables = {**variables_of("edge.yaml.tftpl"), **EDGE}
    assert machine("edge-drain.sh", variables) == ""
    leaving = machine("edge-drain.sh", variables, LIFECYCLE="Terminated").splitlines()
    assert leaving[0] == "systemctl disable --now meridian-edge.service"
    assert "complete-lifecycle-action" in leaving[1] and "--instance-id i-0123456789abcdef0" in leaving[1]


def test_a_control_plane_writes_a_configuration_that_its_program_takes(machine):
    given = {"ID": "control-1", "ETCD_ENDPOINTS": "http://10.0.0.10:2379", "PAGE": "meet.example.org"}
    called = machine("control-plane-first-boot.sh", {**variables_of("control-plane.yaml.tftpl"), **given})
    environment = dict(line.split("=", 1) for line in (machine.etc / "control-plane.env").read_text().splitlines())
    assert environment.keys() == {"MERIDIAN_ENROLMENT_TOKENS", "MERIDIAN_OPERATOR_TOKENS"}
    configuration_is_good("control-plane", machine.etc / "control-plane.toml", **environment)
    assert (machine.folder / "data/pki/ca.key").stat().st_mode & 0o777 == 0o600
    assert (machine.etc / "control-plane.env").stat().st_mode & 0o777 == 0o600
    assert "systemctl enable --now meridian-control-plane.service" in called
