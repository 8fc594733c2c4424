"""A PoP is drained under a person who uses an unmodified SDK, and comes through the mesh's join hostname: here a relay of TCP that leads to
the first edge which takes people, as GeoDNS would."""

import asyncio
import json
import urllib.request

from livekit import rtc

from conftest import EDGES, MESH, PATIENCE_S, eventually, token
from test_reconnects import watch
from test_two_pops import first_track, send_colour

ORDER = ["fra", "iad", "sin"]


def pops() -> dict:
    return {pop["id"]: pop for pop in operator("pops")["pops"]}


def operator(path: str, body: dict | None = None) -> dict:
    request = urllib.request.Request(f"{MESH['page']}/api/v1/operator/{path}", method="GET" if body is None else "POST")
    request.add_header("Authorization", f"Bearer {MESH['api_secret']}")
    if body is not None:
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(body).encode()
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter):
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        pass
    finally:
        sink.close()


async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
    known = await asyncio.to_thread(pops)
    edge = next(pop for pop in ORDER if known[pop]["state"] == "active")
    host, port = EDGES[edge].removeprefix("ws://").split(":")
    there, here = await asyncio.open_connection(host, int(port))
    await asyncio.gather(copy(reader, here), copy(there, writer))


async def test_a_drained_pop_is_left_for_another_and_others_go_on_seeing_the_person(join, room_name):
    hostname = await asyncio.start_server(lead, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{hostname.sockets[0].getsockname()[1]}"
    bob_saw, alice_saw = [], []
    clock = asyncio.get_running_loop().time

    def notice(room: rtc.Room):
        room.on("participant_connected", lambda _: bob_saw.append(("came", clock())))
        room.on("participant_disconnected", lambda _: bob_saw.append(("left", clock())))

    bob = await join("sin", room_name, "bob", before=notice)
    alice = rtc.Room()
    watch(alice_saw)(alice)
    await asyncio.wait_for(alice.connect(url, token(room_name, "alice")), PATIENCE_S)
    stop = asyncio.Event()
    source = rtc.VideoSource(640, 360)
    track = rtc.LocalVideoTrack.create_video_track("camera", source)
    sender = asyncio.create_task(send_colour(source, stop))
    try:
        await alice.local_participant.publish_track(track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA))
        await eventually(lambda: first_track(bob, "alice", rtc.TrackKind.KIND_VIDEO), "bob sees alice's camera")
        await eventually(lambda: pops()["fra"]["participants"] == 1, "the control plane sees alice on fra")
        drained = operator("pops/fra/drain", {"deadline_s": 30, "force": True})
        assert drained["drain"]["people_at_start"] == 1
        await eventually(lambda: "reconnected" in alice_saw, f"alice is back (she saw {alice_saw})")
        await eventually(lambda: pops()["iad"]["participants"] == 1, "alice is on iad")
        await eventually(lambda: pops()["fra"]["participants"] == 0, "fra is empty")
        seen = await eventually(lambda: first_track(bob, "alice", rtc.TrackKind.KIND_VIDEO), "bob sees alice's camera again")
        stream = rtc.VideoStream(seen)
        async with asyncio.timeout(PATIENCE_S):
            frames = 0
            async for _ in stream:
                frames += 1
                if frames == 20:
                    break
        await stream.aclose()
        # The SDK shows a participant whose sid has changed as gone and come in the same breath; that she left, nobody told it.
        assert [what for what, _ in bob_saw] in (["came"], ["came", "left", "came"]), bob_saw
        if len(bob_saw) == 3:
            assert bob_saw[2][1] - bob_saw[1][1] < 0.2, bob_saw
    finally:
        operator("pops/fra/undrain", {})
        stop.set()
        await sender
        await alice.disconnect()
        hostname.close()
