"""aiortc, an implementation that shares no code with ours, over two relayed addresses of an edge's TURN server."""

import asyncio
import json
import urllib.request

import pytest
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection
from aiortc.rtcconfiguration import RTCIceTransportPolicy
from livekit import rtc

from conftest import MESH, PATIENCE_S, eventually

MESSAGES = 50


def post(path: str, body: dict) -> dict:
    request = urllib.request.Request(
        MESH["page"] + path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def ice_servers(pop: str, transport: str) -> list[RTCIceServer]:
    """What the join API names for somebody near that PoP, of one transport."""
    code = post("/api/v1/meetings", {"title": "relay"})["code"]
    servers = post(f"/api/v1/meetings/{code}/join", {"name": "Ana", "from": pop})["ice_servers"]
    found = [
        RTCIceServer(url, server["username"], server["credential"])
        for server in servers
        for url in server["urls"]
        if url.endswith(f"transport={transport}")
    ]
    assert found, servers
    return found


def relay_only(servers: list[RTCIceServer]) -> RTCPeerConnection:
    return RTCPeerConnection(RTCConfiguration(servers, iceTransportPolicy=RTCIceTransportPolicy.RELAY))


def pair_of(connection: RTCPeerConnection):
    """The nominated pair of the connection's only component."""
    return connection.sctp.transport.transport._connection._nominated.get(1)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_two_aiortc_peers_talk_over_two_relayed_addresses(transport):
    servers = ice_servers("fra", transport)
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
