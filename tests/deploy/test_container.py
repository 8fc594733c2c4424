"""The root of the image: enough for the program to serve in it, as nobody in particular, and nothing else."""

import os
import re
import signal
import stat
import subprocess
import time

import pytest
import yaml
from conftest import DEPLOY, TOP, fetch, free_port

CONTAINER = DEPLOY / "container"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("chroot is root's")
    root = tmp_path_factory.mktemp("image")
    root.chmod(0o755)
    # Debug information is most of it, and nobody's here.
    program = root.parent / "meridian"
    subprocess.run(["strip", "-o", program, TOP / "target/debug/meridian"], check=True)
    subprocess.run([CONTAINER / "rootfs.sh", program, root], check=True)
    yield root


def inside(root, *words):
    return ["/usr/sbin/chroot", "--userspec=65532:65532", root, "/usr/bin/meridian", *words]


def test_a_control_plane_serves_in_it_as_nobody(root):
    http, grpc = (f"127.0.0.1:{free_port()}" for _ in range(2))
    words = ["control-plane", "--data", "/var/lib/meridian", "--http-bind", http, "--grpc-bind", grpc]
    process = subprocess.Popen(inside(root, *words), env={}, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                assert fetch(f"http://{http}/healthz") == "ok\n"
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
                time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    secret = root / "var/lib/meridian/pki/ca.key"
    assert (secret.stat().st_uid, stat.S_IMODE(secret.stat().st_mode)) == (65532, 0o600)


def test_there_is_nothing_else_in_it(root):
    programs = {path.name for path in root.rglob("*") if path.is_file() and os.access(path, os.X_OK) and ".so" not in path.name}
    assert programs == {"meridian"}
    writable = set()
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        assert not mode & (stat.S_ISUID | stat.S_ISGID), path
        if mode & stat.S_IWOTH or path.lstat().st_uid == 65532:
            writable.add(str(path.relative_to(root)))
    assert all(path == "tmp" or path.startswith("var/lib/meridian") for path in writable), writable


def test_the_image_is_of_that_root_and_not_of_roots():
    lines = (CONTAINER / "Dockerfile").read_text().splitlines()
    last = lines[len(lines) - 1 - next(i for i, line in enumerate(reversed(lines)) if line.startswith("FROM ")) :]
    assert last[0] == "FROM scratch" and "USER 65532:65532" in last
    assert not [line for line in last if line.startswith("RUN")]
    for source in re.findall(r"^(?:RUN|COPY) (deploy/\S+|control-plane/web/\S+\.json)", "\n".join(lines), re.M):
        assert (TOP / source).exists(), source
    version = re.search(r'^rust-version = "(.*)"', (TOP / "Cargo.toml").read_text(), re.M)[1]
    assert f"FROM rust:{version}-bookworm AS program" in lines


def test_the_kubernetes_example_has_no_privileges_and_known_flags():
    pod = yaml.safe_load((CONTAINER / "kubernetes-edge.yaml").read_text())["spec"]["template"]["spec"]
    (edge,) = pod["containers"]
    assert pod["hostNetwork"] and pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    assert edge["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    environment = {one["name"]: "203.0.113.7" if "ADVERTISE" in one["name"] else "node-1" for one in edge["env"]}
    words = [TOP / "target/debug/meridian", "doctor", "edge", "--json", "--region", "fra"]
    assert '"says": "every key is known' in subprocess.run(words, env=environment, capture_output=True, text=True).stdout
