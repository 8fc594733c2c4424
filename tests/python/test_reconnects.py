"""What happens to people whose session is interrupted, as the SDK tells it: resumes keep it, full reconnects join anew."""

import asyncio

import pytest
from livekit import rtc
from livekit.rtc import SimulateScenarioKind as Scenario

from conftest import PATIENCE_S, eventually
from test_two_pops import first_track, send_colour


def watch(events: list):
    def listen(room: rtc.Room):
        for name in ("reconnecting", "reconnected"):
            room.on(name, lambda name=name: events.append(name))
        room.on("disconnected", lambda reason: events.append(("disconnected", reason)))
        room.on("participant_connected", lambda person: events.append(("came", person.identity)))
        room.on("participant_disconnected", lambda person: events.append(("left", person.identity)))
        room.on("data_received", lambda packet: events.append(("data", packet.data)))

    return listen


@pytest.mark.parametrize(
    "scenario, resumed",
    [
        (Scenario.SIMULATE_SIGNAL_RECONNECT, True),
        (Scenario.SIMULATE_FULL_RECONNECT, False),
        (Scenario.SIMULATE_MIGRATION, False),
        (Scenario.SIMULATE_NODE_FAILURE, False),
    ],
    ids=["lost socket", "full reconnect", "migration", "node failure"],
)
async def test_an_interrupted_session_goes_on(join, room_name, scenario, resumed):
    alice_saw, bob_saw = [], []
    alice = await join("fra", room_name, "alice", before=watch(alice_saw))
    bob = await join("sin", room_name, "bob", before=watch(bob_saw))
    source = rtc.VideoSource(640, 360)
    track = rtc.LocalVideoTrack.create_video_track("camera", source)
    await alice.local_participant.publish_track(track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA, simulcast=True))
    stop = asyncio.Event()
    sender = asyncio.create_task(send_colour(source, stop))
    try:
        await eventually(lambda: first_track(bob, "alice", rtc.TrackKind.KIND_VIDEO), "bob sees alice's camera")
        await eventually(lambda: "bob" in alice.remote_participants, "alice sees bob")
        before = bob.remote_participants["alice"].sid
        await alice.simulate_scenario(scenario)
        await eventually(lambda: "reconnected" in alice_saw, f"alice is back (she saw {alice_saw})")

        seen = await eventually(lambda: first_track(bob, "alice", rtc.TrackKind.KIND_VIDEO), "bob sees alice's camera again")
        stream = rtc.VideoStream(seen)
        async with asyncio.timeout(PATIENCE_S):
            frames = 0
            async for _ in stream:
                frames += 1
                if frames == 20:
                    break
        await stream.aclose()
        assert (bob.remote_participants["alice"].sid == before) == resumed
        assert (("left", "alice") in bob_saw) != resumed

        await eventually(lambda: "bob" in alice.remote_participants, "alice sees bob")
        await bob.local_participant.publish_data(b"to alice", reliable=True)
        await eventually(lambda: ("data", b"to alice") in alice_saw, "bob's message reaches alice")
        await alice.local_participant.publish_data(b"to bob", reliable=True)
        await eventually(lambda: ("data", b"to bob") in bob_saw, "alice's message reaches bob")
    finally:
        stop.set()
        await sender


async def test_a_server_that_says_leave_is_left(join, room_name):
    saw = []
    alice = await join("fra", room_name, "alice", before=watch(saw))
    await alice.simulate_scenario(Scenario.SIMULATE_SERVER_LEAVE)
    await eventually(lambda: ("disconnected", rtc.DisconnectReason.SERVER_SHUTDOWN) in saw, f"alice is out (she saw {saw})")
    assert "reconnected" not in saw


@pytest.mark.parametrize("pops", [("fra", "fra"), ("iad", "sin")], ids=["one PoP", "two PoPs"])
async def test_what_is_said_to_somebody_who_just_came_reaches_them(join, room_name, pops):
    """Their transport does not stand yet when they are seen to join: reliable data waits for it, in order and once."""
    alice = await join(pops[0], room_name, "alice")
    said = []

    def greet(person):
        async def say():
            for number in range(5):
                await alice.local_participant.publish_data(f"hello {number}".encode(), reliable=True, destination_identities=[person.identity])

        said.append(asyncio.create_task(say()))

    await alice.local_participant.publish_data(b"before you came", reliable=True)
    alice.on("participant_connected", greet)
    saw = []
    await join(pops[1], room_name, "bob", before=watch(saw))
    expected = [("data", f"hello {number}".encode()) for number in range(5)]
    await eventually(lambda: [event for event in saw if event[0] == "data"] == expected, f"bob is greeted (he saw {saw})")
