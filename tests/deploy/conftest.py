"""The running demo that `./run test deploy` starts, and what its processes tell about themselves."""

import json
import os
import pathlib
import socket
import subprocess
import time
import urllib.request

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = TOP / "deploy"


def fetch(url, body=None):
    request = urllib.request.Request(url, json.dumps(body).encode() if body is not None else None)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.read().decode()


@pytest.fixture(scope="session")
def metrics():
    """/metrics of a control plane and of an edge, after a join and a refusal, so that what is counted by name is there."""
    ready = json.loads(pathlib.Path(os.environ["MERIDIAN_READY"]).read_text())
    page, edge = ready["page"], ready["edges"][0]["url"].replace("ws", "http", 1)
    meeting = json.loads(fetch(f"{page}/api/v1/meetings", {"title": "Metrics"}))
    join = f"{page}/api/v1/meetings/{meeting['code']}/join"
    assert "token" in fetch(join, {"name": "Ana", "from": "fra"})
    fetch(f"{page}/api/v1/meetings/none-of-ours/join", {"name": "Ana"})
    return {"control-plane": fetch(f"{page}/metrics"), "edge": fetch(f"{edge}/metrics")}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def etcd_metrics(tmp_path_factory):
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    process = subprocess.Popen(
        ["etcd", "--data-dir", tmp_path_factory.mktemp("etcd"), "--listen-client-urls", client, "--advertise-client-urls", client]
        + ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 15
        while True:
            try:
                return fetch(f"{client}/metrics")
            except OSError:
                assert time.monotonic() < deadline, "etcd did not answer"
                time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
