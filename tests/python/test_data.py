"""Reliable data skips nothing, however much of it comes at once: whoever sends it is held back until everybody has it."""

import asyncio
import hashlib
import secrets

import pytest
from conftest import eventually

MESSAGES = 400
MESSAGE_LEN = 15_000
STREAM_LEN = 5_000_000


@pytest.mark.parametrize("pops", [("fra", "fra"), ("fra", "sin")], ids=["one PoP", "two PoPs"])
async def test_a_burst_of_packets_arrives_whole_and_in_order(join, room_name, pops):
    arrived: list[int] = []
    ana = await join(pops[0], room_name, "ana")
    await join(pops[1], room_name, "ben", before=lambda room: room.on("data_received", lambda packet: arrived.append(int.from_bytes(packet.data[:2]))))
    await eventually(lambda: ana.remote_participants, "ana sees ben")
    padding = bytes(MESSAGE_LEN - 2)
    for number in range(MESSAGES):
        await ana.local_participant.publish_data(number.to_bytes(2) + padding, reliable=True)
    await eventually(lambda: len(arrived) >= MESSAGES, f"all packets at ben, who has {len(arrived)}")
    assert arrived == list(range(MESSAGES))


@pytest.mark.parametrize("pops", [("fra", "fra"), ("fra", "sin")], ids=["one PoP", "two PoPs"])
async def test_a_long_byte_stream_arrives_byte_for_byte(join, room_name, pops):
    received = asyncio.get_running_loop().create_future()

    async def read(reader):
        digest, length = hashlib.sha256(), 0
        async for chunk in reader:
            digest.update(chunk)
            length += len(chunk)
        received.set_result((length, digest.hexdigest()))

    def take(room):
        room.register_byte_stream_handler("file", lambda reader, sender: asyncio.create_task(read(reader)))

    ana = await join(pops[0], room_name, "ana")
    await join(pops[1], room_name, "ben", before=take)
    await eventually(lambda: ana.remote_participants, "ana sees ben")
    payload = secrets.token_bytes(STREAM_LEN)
    writer = await ana.local_participant.stream_bytes("file", total_size=STREAM_LEN, topic="file")
    await writer.write(payload)
    await writer.aclose()
    assert await asyncio.wait_for(received, 60) == (STREAM_LEN, hashlib.sha256(payload).hexdigest())
