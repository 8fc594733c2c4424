"""A mesh as an operator runs it, for tests that kill its processes: etcd, and edges with certificates of `meridian pki`. Everything it
starts it stops, by process id."""

import os
import secrets
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

BINARY = Path(os.environ.get("MERIDIAN_BINARY", Path(__file__).resolve().parents[2] / "target/debug/meridian"))
START_S = 30
# The settings of whoever runs the tests are not ours.
ENVIRONMENT = {"PATH": os.environ["PATH"], "MERIDIAN_LOG": "info", "ETCD_LOG_LEVEL": "error"}


def free_port() -> int:
    """Free for TCP and UDP, outside of the range from which the kernel gives ports to anybody who asks for any."""
    while True:
        port = 10_000 + secrets.randbelow(22_000)
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET, kind) as probe:
                    probe.bind(("127.0.0.1", port))
            return port
        except OSError:
            pass


class Mesh:
    api_key, api_secret = "devkey", "a secret of a test, of more than 32 characters"

    def __init__(self, folder: Path, recording: str):
        """`recording`: lines of the table of that name, the same for every edge; spools are each one's own."""
        self.folder, self.recording = folder, recording
        self.processes: dict[str, subprocess.Popen] = {}
        self.ports: dict[str, int] = {}
        clients, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self.etcd = clients
        self._spawn(
            "etcd",
            ["etcd", "--name", "one", "--data-dir", folder / "etcd", "--listen-client-urls", clients, "--advertise-client-urls", clients]
            + ["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"one={peers}"],
        )
        self._run("pki", "create", "--out", folder / "data/pki")

    def start(self, edge: str):
        """Starts an edge and waits until it is ready: the first time with a new certificate, later where it was."""
        pki = self.folder / f"pki-{edge}"
        if edge not in self.ports:
            self._run("pki", "node", edge, "--authority", self.folder / "data", "--out", pki)
            self.ports[edge] = free_port()
        file = self.folder / f"{edge}.toml"
        file.write_text(
            f"[node]\nid = '{edge}'\nregion = '{edge}'\n[http]\nbind = '127.0.0.1:{self.ports[edge]}'\n"
            f"[media]\nbind = ['127.0.0.1:0']\nthreads = 1\n[link]\nbind = '127.0.0.1:0'\n"
            f"[registry]\nkind = 'etcd'\nendpoints = ['{self.etcd}']\nlease_s = 2\n[pki]\ndirectory = '{pki}'\n"
            f"[recording]\nspool = '{self.spool(edge)}'\n{self.recording}\n[api_keys]\n{self.api_key} = '{self.api_secret}'\n"
        )
        self._spawn(edge, [BINARY, "edge", "-c", file])
        deadline = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.ports[edge]}/readyz", timeout=1)
                return
            except OSError as error:
                if time.monotonic() > deadline or self.processes[edge].poll() is not None:
                    raise AssertionError(f"{edge} is not ready: {error}\n{self.log(edge)}") from error
                time.sleep(0.05)

    def spool(self, edge: str) -> Path:
        return self.folder / f"spool-{edge}"

    def kill(self, edge: str):
        process = self.processes.pop(edge)
        process.kill()
        process.wait()

    def url(self, edge: str) -> str:
        return f"ws://127.0.0.1:{self.ports[edge]}"

    def metric(self, edge: str, name: str) -> float:
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.ports[edge]}/metrics", timeout=5).read().decode()
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"meridian_{name} "))

    def log(self, name: str) -> str:
        return "\n".join((self.folder / f"{name}.log").read_text().splitlines()[-40:])

    def close(self):
        for name in list(self.processes):
            self.kill(name)

    def _spawn(self, name: str, command: list):
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(word) for word in command], env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _run(self, *words):
        subprocess.run([str(word) for word in (BINARY, *words)], check=True, capture_output=True, env=ENVIRONMENT)
