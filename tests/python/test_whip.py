"""WHIP and WHEP with clients that share no code with ours, across two PoPs and beside LiveKit participants: aiortc both ways, FFmpeg's
muxer and GStreamer's webrtcbin as publishers. Pictures and a tone are looked at, and so is what each client prints when it is refused."""

import asyncio
import fractions
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from livekit import rtc

from conftest import EDGES, PATIENCE_S, eventually, token
from test_two_pops import HEIGHT, RATE, TONE_HZ, WIDTH, first_track, send_colour, send_tone

HERE = Path(__file__).parent
BASE = {pop: url.replace("ws", "http", 1) for pop, url in EDGES.items()}


class Answered:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body


def ask_now(method: str, url: str, body: bytes | str | None, headers: dict) -> Answered:
    data = body.encode() if isinstance(body, str) else body
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return Answered(answer.status, answer.headers, answer.read().decode())
    except urllib.error.HTTPError as error:
        return Answered(error.code, error.headers, error.read().decode())


async def ask(method: str, url: str, bearer: str | None, body=None, content_type=None, **headers) -> Answered:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if bearer:
        sent["Authorization"] = f"Bearer {bearer}"
    if content_type:
        sent["Content-Type"] = content_type
    return await asyncio.to_thread(ask_now, method, url, body, sent)


async def post(url: str, bearer: str, offer: str) -> Answered:
    return await ask("POST", url, bearer, offer, "application/sdp")


class Picture(MediaStreamTrack):
    """Left half bright, right half dark, 15 times a second."""

    kind = "video"

    def __init__(self):
        super().__init__()
        self.sent, self.start = 0, time.monotonic()

    async def recv(self):
        await asyncio.sleep(max(0, self.start + self.sent / 15 - time.monotonic()))
        rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        rgb[:, : WIDTH // 2] = 220
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame.pts, frame.time_base = self.sent * 6000, fractions.Fraction(1, 90_000)
        self.sent += 1
        return frame


class Tone(MediaStreamTrack):
    kind = "audio"

    def __init__(self):
        super().__init__()
        self.sent, self.start = 0, time.monotonic()

    async def recv(self):
        step = RATE // 50
        await asyncio.sleep(max(0, self.start + self.sent / RATE - time.monotonic()))
        at = (np.arange(step) + self.sent) / RATE
        samples = (0.4 * 32767 * np.sin(2 * np.pi * TONE_HZ * at)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self.sent, fractions.Fraction(1, RATE)
        self.sent += step
        return frame


def peak_hz(samples: np.ndarray) -> float:
    return np.abs(np.fft.rfft(samples * np.hanning(samples.size))).argmax() * RATE / samples.size


def assert_halves(picture: np.ndarray):
    """`picture`: height × width × colours."""
    height, width = picture.shape[:2]
    middle = picture[height // 3 : height // 2]
    assert middle[:, width // 10 : width * 4 // 10, 0].mean() > 180
    assert middle[:, width * 6 // 10 : width * 9 // 10, 0].mean() < 60


async def livekit_sees(room: rtc.Room, identity: str):
    track = await eventually(lambda: first_track(room, identity, rtc.TrackKind.KIND_VIDEO), f"{identity}'s picture")
    stream = rtc.VideoStream(track, format=rtc.VideoBufferType.RGBA)
    frames = 0
    async with asyncio.timeout(PATIENCE_S):
        async for event in stream:
            frames += 1
            if frames >= 10:
                frame = event.frame
                assert_halves(np.frombuffer(frame.data, np.uint8).reshape(frame.height, frame.width, 4))
                break
    await stream.aclose()


async def livekit_hears(room: rtc.Room, identity: str):
    track = await eventually(lambda: first_track(room, identity, rtc.TrackKind.KIND_AUDIO), f"{identity}'s sound")
    stream = rtc.AudioStream(track, sample_rate=RATE, num_channels=1)
    window = np.zeros(0)
    async with asyncio.timeout(PATIENCE_S):
        async for event in stream:
            samples = np.frombuffer(event.frame.data, np.int16).astype(float)
            # Silence until packets arrive; the window starts with the first sound.
            if window.size or np.abs(samples).max() > 3000:
                window = np.concatenate([window, samples])
            if window.size >= RATE * 3 // 2:
                break
    await stream.aclose()
    heard = peak_hz(window[RATE // 2 :])
    assert abs(heard - TONE_HZ) < 3, f"heard {heard:.1f} Hz"


@pytest.fixture
async def connection():
    made: list[RTCPeerConnection] = []

    def make() -> RTCPeerConnection:
        made.append(RTCPeerConnection())
        return made[-1]

    yield make
    await asyncio.gather(*(one.close() for one in made))


async def exchange(connection: RTCPeerConnection, url: str, bearer: str) -> tuple[str, Answered]:
    """Offers, takes the answer, waits until the transport stands; the resource's address and the answer."""
    await connection.setLocalDescription(await connection.createOffer())
    answer = await post(url, bearer, connection.localDescription.sdp)
    assert answer.status == 201, answer.body
    await connection.setRemoteDescription(RTCSessionDescription(answer.body, "answer"))
    await eventually(lambda: connection.connectionState == "connected", "the transport stands")
    return urljoin(url, answer.headers["Location"]), answer


async def watch(connection: RTCPeerConnection, url: str, bearer: str) -> str:
    """Plays by WHEP and looks at what comes."""
    for kind in ("audio", "video"):
        connection.addTransceiver(kind, direction="recvonly")
    resource, _ = await exchange(connection, url, bearer)
    tracks = {transceiver.kind: transceiver.receiver.track for transceiver in connection.getTransceivers()}
    window = np.zeros(0)

    async def listen():
        nonlocal window
        while window.size < RATE * 3 // 2:
            frame = await tracks["audio"].recv()
            samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0].astype(float)
            if window.size or np.abs(samples).max() > 3000:
                window = np.concatenate([window, samples])

    async def look():
        for _ in range(10):
            frame = await tracks["video"].recv()
        assert_halves(frame.to_ndarray(format="rgb24"))

    await asyncio.wait_for(asyncio.gather(listen(), look()), PATIENCE_S)
    heard = peak_hz(window[RATE // 2 :])
    assert abs(heard - TONE_HZ) < 3, f"heard {heard:.1f} Hz"
    return resource


async def test_aiortc_publishes_and_aiortc_and_livekit_watch_on_another_pop(join, room_name, connection):
    bob = await join("sin", room_name, "bob")
    publisher, bearer = connection(), token(room_name, "camera")
    publisher.addTrack(Tone())
    publisher.addTrack(Picture())
    resource, answer = await exchange(publisher, BASE["fra"] + "/whip", bearer)
    assert answer.headers["Content-Type"] == "application/sdp"
    assert answer.headers["Access-Control-Allow-Origin"] == "*" and "location" in answer.headers["Access-Control-Expose-Headers"]
    links = answer.headers.get_all("Link")
    assert any(re.fullmatch(r'<turn:.*>; rel="ice-server"; username=".+"; credential=".+"; credential-type="password"', l) for l in links)
    await asyncio.gather(livekit_sees(bob, "camera"), livekit_hears(bob, "camera"))

    viewer = connection()
    watching = await watch(viewer, BASE["sin"] + "/whep", token(room_name, "viewer", can_publish=False))
    assert "viewer" in bob.remote_participants
    assert (await ask("DELETE", watching, token(room_name, "viewer"))).status == 200
    await eventually(lambda: "viewer" not in bob.remote_participants, "the viewer is gone")

    # A publisher that goes ends its viewers, who would wait for ever.
    other = connection()
    await watch(other, BASE["iad"] + "/whep?publisher=camera", token(room_name, "other"))
    assert (await ask("DELETE", resource, bearer)).status == 200
    await eventually(lambda: not bob.remote_participants, "publisher and viewer are gone")
    await eventually(lambda: other.connectionState == "closed", "the viewer is told")
    assert (await ask("DELETE", resource, bearer)).status == 404


async def test_aiortc_watches_a_livekit_participant(join, room_name, connection):
    ana = await join("fra", room_name, "ana")
    microphone, camera = rtc.AudioSource(RATE, 1), rtc.VideoSource(WIDTH, HEIGHT)
    options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE, dtx=False)
    await ana.local_participant.publish_track(rtc.LocalAudioTrack.create_audio_track("microphone", microphone), options)
    options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA)
    await ana.local_participant.publish_track(rtc.LocalVideoTrack.create_video_track("camera", camera), options)
    stop = asyncio.Event()
    sending = asyncio.gather(send_tone(microphone, 30), send_colour(camera, stop))
    try:
        bob = await join("sin", room_name, "bob")
        await eventually(lambda: first_track(bob, "ana", rtc.TrackKind.KIND_VIDEO), "ana publishes")
        await watch(connection(), BASE["sin"] + "/whep", token(room_name, "viewer"))
    finally:
        stop.set()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
