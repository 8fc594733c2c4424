"""What two people on two PoPs must be able to do, whichever SDK they use."""

import asyncio

import numpy as np
import pytest
from livekit import rtc

from conftest import eventually

WIDTH, HEIGHT = 640, 360
TONE_HZ = 440
RATE = 48_000


async def send_tone(source: rtc.AudioSource, seconds: float):
    step = RATE // 100
    phase = np.arange(step) / RATE
    for i in range(int(seconds * 100)):
        samples = (0.4 * 32767 * np.sin(2 * np.pi * TONE_HZ * (phase + i * step / RATE))).astype(np.int16)
        await source.capture_frame(rtc.AudioFrame(samples.tobytes(), RATE, 1, step))


async def send_colour(source: rtc.VideoSource, stop: asyncio.Event):
    """A picture whose left half is bright and right half is dark, 15 times a second."""
    rgba = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    rgba[..., 3] = 255
    rgba[:, : WIDTH // 2, :3] = 220
    while not stop.is_set():
        source.capture_frame(rtc.VideoFrame(WIDTH, HEIGHT, rtc.VideoBufferType.RGBA, rgba.tobytes()))
        try:
            await asyncio.wait_for(stop.wait(), 1 / 15)
        except TimeoutError:
            pass


def first_track(room: rtc.Room, identity: str, kind):
    person = room.remote_participants.get(identity)
    if person is None:
        return None
    return next((p.track for p in person.track_publications.values() if p.track and p.kind == kind), None)


@pytest.mark.parametrize("pops", [("fra", "fra"), ("fra", "sin")], ids=["one PoP", "two PoPs"])
async def test_video_arrives_as_it_was_sent(join, room_name, pops):
    alice = await join(pops[0], room_name, "alice")
    bob = await join(pops[1], room_name, "bob")
    source = rtc.VideoSource(WIDTH, HEIGHT)
    track = rtc.LocalVideoTrack.create_video_track("camera", source)
    # Three layers, offered high to low: whoever takes the order for the layers' sizes gives everybody the smallest picture.
    options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA, simulcast=True)
    await alice.local_participant.publish_track(track, options)
    stop = asyncio.Event()
    sender = asyncio.create_task(send_colour(source, stop))
    try:
        seen = await eventually(lambda: first_track(bob, "alice", rtc.TrackKind.KIND_VIDEO), "bob sees alice's camera")
        frames = 0
        stream = rtc.VideoStream(seen, format=rtc.VideoBufferType.RGBA)
        async with asyncio.timeout(30):
            async for event in stream:
                frames += 1
                if frames < 30 or event.frame.width < WIDTH:
                    continue
                picture = np.frombuffer(event.frame.data, np.uint8).reshape(event.frame.height, event.frame.width, 4)
                assert (event.frame.width, event.frame.height) == (WIDTH, HEIGHT)
                assert picture[100:200, 50:250, 0].mean() > 180
                assert picture[100:200, 400:600, 0].mean() < 60
                break
        await stream.aclose()
    finally:
        stop.set()
        await sender


@pytest.mark.parametrize("pops", [("fra", "fra"), ("iad", "sin")], ids=["one PoP", "two PoPs"])
async def test_a_tone_keeps_its_frequency(join, room_name, pops):
    alice = await join(pops[0], room_name, "alice")
    bob = await join(pops[1], room_name, "bob")
    source = rtc.AudioSource(RATE, 1)
    track = rtc.LocalAudioTrack.create_audio_track("microphone", source)
    await alice.local_participant.publish_track(
        track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE, dtx=False)
    )
    sender = asyncio.create_task(send_tone(source, 30))
    try:
        heard = await eventually(lambda: first_track(bob, "alice", rtc.TrackKind.KIND_AUDIO), "bob hears alice")
        stream = rtc.AudioStream(heard, sample_rate=RATE, num_channels=1)
        window = np.zeros(0)
        async with asyncio.timeout(25):
            async for event in stream:
                samples = np.frombuffer(event.frame.data, np.int16).astype(float)
                # The stream gives silence until packets arrive; the window starts with the first sound.
                if window.size or np.abs(samples).max() > 3000:
                    window = np.concatenate([window, samples])
                if window.size >= 2 * RATE:
                    break
        await stream.aclose()
        spectrum = np.abs(np.fft.rfft(window[RATE:] * np.hanning(window.size - RATE)))
        peak_hz = spectrum.argmax() * RATE / (window.size - RATE)
        assert abs(peak_hz - TONE_HZ) < 3, f"heard {peak_hz:.1f} Hz"
    finally:
        sender.cancel()


async def test_data_reaches_whom_it_is_for(join, room_name):
    got: dict[str, list] = {"bob": [], "carol": []}

    def listen(name):
        return lambda room: room.on("data_received", lambda packet: got[name].append(packet))

    alice = await join("fra", room_name, "alice")
    bob = await join("sin", room_name, "bob", before=listen("bob"))
    await join("iad", room_name, "carol", before=listen("carol"))
    await eventually(lambda: len(alice.remote_participants) == 2 and "carol" in bob.remote_participants, "everybody sees everybody")

    big = bytes(range(256)) * 40
    await alice.local_participant.publish_data(big, reliable=True, topic="all")
    await alice.local_participant.publish_data(b"for bob", reliable=True, destination_identities=["bob"], topic="one")
    await alice.local_participant.publish_data(b"end", reliable=True, topic="all")
    await eventually(lambda: any(p.data == b"end" for p in got["carol"]), "carol has alice's last packet")
    await eventually(lambda: any(p.data == b"end" for p in got["bob"]), "bob has alice's last packet")
    assert [p.data for p in got["bob"]] == [big, b"for bob", b"end"]
    assert [p.data for p in got["carol"]] == [big, b"end"]
    assert {p.participant.identity for p in got["bob"]} == {"alice"}

    # Lossy data may be lost; on an idle loopback enough of it arrives.
    for i in range(50):
        await alice.local_participant.publish_data(f"lossy {i}", reliable=False, topic="lossy")
        await asyncio.sleep(0.01)
    await eventually(lambda: sum(p.topic == "lossy" for p in got["bob"]) >= 40, "bob has most lossy packets")


async def test_rpc_crosses_the_mesh(join, room_name):
    alice = await join("iad", room_name, "alice")
    bob = await join("sin", room_name, "bob")

    @bob.local_participant.register_rpc_method("greet")
    async def greet(data: rtc.RpcInvocationData):
        return f"hello {data.caller_identity}, {data.payload}"

    await eventually(lambda: "bob" in alice.remote_participants, "alice sees bob")
    answer = await alice.local_participant.perform_rpc(destination_identity="bob", method="greet", payload="how are you")
    assert answer == "hello alice, how are you"


async def test_attributes_and_departure_are_seen_everywhere(join, room_name):
    alice = await join("fra", room_name, "alice")
    bob = await join("sin", room_name, "bob")
    await eventually(lambda: "alice" in bob.remote_participants, "bob sees alice")
    await alice.local_participant.set_attributes({"hand": "raised"})
    await eventually(lambda: bob.remote_participants["alice"].attributes.get("hand") == "raised", "the raised hand")
    await alice.disconnect()
    await eventually(lambda: "alice" not in bob.remote_participants, "bob sees alice leave")


async def test_one_identity_is_in_a_room_once(join, room_name):
    gone = asyncio.Event()
    reasons = []

    def watch(room):
        room.on("disconnected", lambda reason: (reasons.append(reason), gone.set()))

    await join("fra", room_name, "alice", before=watch)
    bob = await join("iad", room_name, "bob")
    first = (await eventually(lambda: bob.remote_participants.get("alice"), "bob sees alice")).sid
    await join("sin", room_name, "alice")
    await asyncio.wait_for(gone.wait(), 20)
    assert reasons == [rtc.DisconnectReason.DUPLICATE_IDENTITY]
    await eventually(
        lambda: "alice" in bob.remote_participants and bob.remote_participants["alice"].sid != first, "bob sees the new alice"
    )


async def test_connection_quality_is_told_across_the_mesh(join, room_name):
    told = {}
    alice = await join("fra", room_name, "alice")
    await join(
        "sin",
        room_name,
        "bob",
        before=lambda room: room.on("connection_quality_changed", lambda person, quality: told.update({person.identity: quality})),
    )
    await eventually(lambda: "bob" in alice.remote_participants, "alice sees bob")
    await eventually(lambda: told.get("alice") == rtc.ConnectionQuality.QUALITY_EXCELLENT, "bob is told how alice's connection is")
