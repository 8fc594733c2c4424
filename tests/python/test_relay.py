"""aiortc, an implementation that shares no code with ours, over two relayed addresses of an edge's TURN server."""

import asyncio
import json
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection
from aiortc.rtcconfiguration import RTCIceTransportPolicy
from livekit import rtc

from conftest import MESH, PATIENCE_S, eventually

MESSAGES = 50
MERIDIAN = Path(__file__).parents[2] / "target/debug/meridian"


def post(page: str, path: str, body: dict) -> dict:
    request = urllib.request.Request(
        page + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def joined(page: str) -> dict:
    """The join API's answer to somebody near Frankfurt."""
    code = post(page, "/api/v1/meetings", {"title": "relay"})["code"]
    return post(page, f"/api/v1/meetings/{code}/join", {"name": "Ana", "from": "fra"})


def ice_servers(join: dict, scheme: str, transport: str) -> list[RTCIceServer]:
    """Those of one kind."""
    servers = join["ice_servers"]
    found = [
        RTCIceServer(url, server["username"], server["credential"])
        for server in servers
        for url in server["urls"]
        if url.startswith(f"{scheme}:") and url.endswith(f"transport={transport}")
    ]
    assert found, servers
    return found


def relay_only(servers: list[RTCIceServer]) -> RTCPeerConnection:
    return RTCPeerConnection(RTCConfiguration(servers, iceTransportPolicy=RTCIceTransportPolicy.RELAY))


def pair_of(connection: RTCPeerConnection):
    """The nominated pair of the connection's only component."""
    return connection.sctp.transport.transport._connection._nominated.get(1)


@pytest.fixture
async def https_page(tmp_path, monkeypatch):
    """A mesh of its own with HTTPS, and so with TURN over TLS on the same port, by an authority that this process trusts."""
    ca, web, ready = tmp_path / "ca", tmp_path / "web", tmp_path / "ready.json"
    subprocess.run([MERIDIAN, "pki", "create", "--out", ca], check=True, capture_output=True)
    subprocess.run([MERIDIAN, "pki", "node", "web", "--authority", ca, "--out", web], check=True, capture_output=True)
    # aioice takes no context of ours: it asks for OpenSSL's own.
    monkeypatch.setenv("SSL_CERT_FILE", str(ca / "ca.pem"))
    tls = ["--certificate", web / "node.pem", "--private-key", web / "node.key"]
    with (tmp_path / "log").open("w") as log:
        command = [MERIDIAN, "dev", "--port", "0", "--ready-file", ready, *tls]
        mesh = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        await eventually(lambda: mesh.poll() is not None or ready.exists() and ready.read_text().endswith("}"), "the mesh is up")
        assert mesh.poll() is None, (tmp_path / "log").read_text()
        yield json.loads(ready.read_text())["page"]
    finally:
        mesh.send_signal(signal.SIGINT)
        mesh.wait(PATIENCE_S)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_two_aiortc_peers_talk_over_two_relayed_addresses(transport):
    await talk(ice_servers(joined(MESH["page"]), "turn", transport))


async def test_two_aiortc_peers_talk_over_tls_on_the_port_of_https(https_page):
    join = joined(https_page)
    port = join["edge"]["url"].rsplit(":")[-1]
    servers = ice_servers(join, "turns", "tcp")
    assert [server.urls for server in servers] == [f"turns:127.0.0.1:{port}?transport=tcp"]
    await talk(servers)


async def talk(servers: list[RTCIceServer]):
    """Two peers that relay only, and their data channel."""
    ana, bert = relay_only(servers), relay_only(servers)
    try:
        echoed: list[str] = []

        @bert.on("datachannel")
        def answer(channel):
            channel.on("message", channel.send)

        channel = ana.createDataChannel("echo")
        channel.on("message", echoed.append)
        await ana.setLocalDescription(await ana.createOffer())
        await bert.setRemoteDescription(ana.localDescription)
        await bert.setLocalDescription(await bert.createAnswer())
        await ana.setRemoteDescription(bert.localDescription)
        await eventually(lambda: channel.readyState == "open", "the data channel is open")
        sent = [f"{number} " + "x" * 1000 for number in range(MESSAGES)]
        for text in sent:
            channel.send(text)
        await eventually(lambda: len(echoed) == MESSAGES, "every message came back")
        assert echoed == sent
        for peer in (ana, bert):
            pair = pair_of(peer)
            assert (pair.local_candidate.type, pair.remote_candidate.type) == ("relay", "relay")
    finally:
        await asyncio.gather(ana.close(), bert.close())


async def test_an_sdk_with_an_api_keys_token_meets_others_through_its_edges_turn_alone(join, room_name):
    config = rtc.RtcConfiguration(ice_transport_type=rtc.IceTransportType.TRANSPORT_RELAY)
    alice = await join("fra", room_name, "alice", options=rtc.RoomOptions(rtc_config=config))
    bob = await join("sin", room_name, "bob")
    heard: list[bytes] = []
    alice.on("data_received", lambda packet: heard.append(packet.data))
    await eventually(lambda: "alice" in bob.remote_participants, "bob sees alice")
    await bob.local_participant.publish_data(b"hello", reliable=True)
    await eventually(lambda: heard == [b"hello"], "alice hears bob")
