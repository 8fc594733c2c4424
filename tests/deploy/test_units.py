"""The units are what systemd takes, give a stranger little to hold on to, and are the ones that cloud-init installs."""

import re
import subprocess

import pytest
import yaml
from conftest import DEPLOY, TOP

SYSTEMD = DEPLOY / "systemd"
SERVICES = sorted(SYSTEMD.glob("*.service"))


@pytest.mark.parametrize("unit", sorted([*SERVICES, *SYSTEMD.glob("*.timer")]), ids=lambda unit: unit.name)
def test_systemd_takes_it(unit, tmp_path):
    # The programs stand where they are installed: here others stand in for them.
    for one in SYSTEMD.iterdir():
        text = one.read_text().replace("/usr/bin/meridian ", f"{TOP}/target/debug/meridian ")
        (tmp_path / one.name).write_text(text.replace("/usr/local/sbin/meridian-drain", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", tmp_path / unit.name], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_its_exposure_is_at_most_3(unit):
    words = ["systemd-analyze", "security", "--offline=yes", "--threshold=30", "--no-pager", unit]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-200:]


def test_flags_in_units_are_the_programs_own():
    for unit in SERVICES:
        for role, flags in re.findall(r"^Exec\w+=/usr/bin/meridian (\S+) (.*)$", unit.read_text(), re.M):
            known = subprocess.run([TOP / "target/debug/meridian", role, "--help"], capture_output=True, text=True, check=True).stdout
            for flag in re.findall(r"--[a-z-]+", flags):
                assert flag in known, f"{unit.name}: {role} has no {flag}"


def test_the_kernel_gives_what_the_doctor_asks_for():
    sysctl = dict(re.findall(r"^(\S+) = (.+)$", (SYSTEMD / "meridian-sysctl.conf").read_text(), re.M))
    assert sysctl["net.core.rmem_max"] == sysctl["net.core.wmem_max"] == str(8 << 20)
    # TURN's ports are nobody else's.
    assert sysctl["net.ipv4.ip_local_reserved_ports"] == "49152-65535"
    assert int(sysctl["net.ipv4.ip_local_port_range"].split()[1]) < 49152
    limits = [re.search(r"^LimitNOFILE=(\d+)$", unit.read_text(), re.M) for unit in SERVICES if unit.stem != "meridian-drain"]
    assert all(limit and int(limit[1]) >= 65536 for limit in limits)


def test_shell_scripts_are_shell():
    for script in (DEPLOY / "cloud-init").glob("*.sh"):
        subprocess.run(["sh", "-n", script], check=True)
        assert script.read_text().splitlines()[0] == "#!/bin/sh"
        assert "set -eu" in script.read_text()
