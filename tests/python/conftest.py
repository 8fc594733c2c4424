"""Two people on two PoPs, joined with the Python SDK. `./run test python` starts the mesh and sets MERIDIAN_READY, the
file in which `meridian dev` says where everything listens."""

import asyncio
import json
import os
import secrets

import pytest
from livekit import api, rtc

MESH = json.load(open(os.environ["MERIDIAN_READY"]))
EDGES = {edge["id"]: edge["url"] for edge in MESH["edges"]}
PATIENCE_S = 20


def token(room: str, identity: str, **grants) -> str:
    video = api.VideoGrants(room_join=True, room=room, **({"can_update_own_metadata": True} | grants))
    return (
        api.AccessToken(MESH["api_key"], MESH["api_secret"])
        .with_identity(identity)
        .with_name(identity.title())
        .with_grants(video)
        .to_jwt()
    )


async def eventually(condition, what: str):
    """Waits until `condition()` is truthy and returns its value. The SDK mirrors state by events; this polls the mirror."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not (value := condition()):
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {PATIENCE_S} s: {what}")
        await asyncio.sleep(0.02)
    return value


@pytest.fixture
def room_name() -> str:
    return "py-" + secrets.token_hex(6)


@pytest.fixture
async def join():
    rooms: list[rtc.Room] = []

    async def connect(pop: str, room: str, identity: str, *, before=None, options=None, **grants) -> rtc.Room:
        client = rtc.Room()
        rooms.append(client)
        if before:
            before(client)
        await asyncio.wait_for(client.connect(EDGES[pop], token(room, identity, **grants), options or rtc.RoomOptions()), PATIENCE_S)
        return client

    yield connect
    for client in rooms:
        await client.disconnect()
