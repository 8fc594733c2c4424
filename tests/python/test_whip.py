"""WHIP and WHEP with clients that share no code with ours, across two PoPs and beside LiveKit participants: aiortc both ways, FFmpeg's
muxer and GStreamer's webrtcbin as publishers. Pictures and a tone are looked at, and so is what each client prints when it is refused."""

import asyncio
import fractions
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
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


@pytest.fixture
async def run_client():
    """Starts a publisher in a process of its own, which goes when its standard input closes."""
    processes = []

    async def start(python, script: str, *arguments: str):
        process = await asyncio.create_subprocess_exec(
            str(python), str(HERE / script), *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.returncode is None:
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


@pytest.fixture
def certificate(tmp_path):
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ffmpeg -keyout key.pem -out certificate.pem"
    subprocess.run(command.split(), check=True, capture_output=True, cwd=tmp_path)
    (tmp_path / "both.pem").write_text((tmp_path / "key.pem").read_text() + (tmp_path / "certificate.pem").read_text())
    return SimpleNamespace(**{name: str(tmp_path / f"{name}.pem") for name in ("certificate", "key", "both")})


async def test_ffmpeg_publishes_to_another_pop(join, room_name, connection, run_client, certificate):
    bob = await join("sin", room_name, "bob")
    process = await run_client(sys.executable, "ffmpeg_whip.py", BASE["fra"] + "/whip", token(room_name, "ffmpeg"), certificate.certificate, certificate.key)
    await asyncio.gather(livekit_sees(bob, "ffmpeg"), livekit_hears(bob, "ffmpeg"))
    await watch(connection(), BASE["iad"] + "/whep?publisher=ffmpeg", token(room_name, "viewer"))
    process.stdin.close()
    await eventually(lambda: "ffmpeg" not in bob.remote_participants, "its DELETE is heard")
    assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_what_ffmpeg_prints_when_it_is_refused_says_why(room_name, run_client, certificate):
    bad = token(room_name, "ffmpeg")[:-3]
    process = await run_client(sys.executable, "ffmpeg_whip.py", BASE["fra"] + "/whip", bad, certificate.certificate, certificate.key)
    printed, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert "401 Unauthorized" in printed.decode() and process.returncode != 0


async def test_gstreamer_publishes_to_another_pop_and_is_told_which_setting_it_needs(join, room_name, connection, run_client, certificate):
    url, bearer = BASE["fra"] + "/whip", token(room_name, "gstreamer")
    process = await run_client("/usr/bin/python3", "gstreamer_whip.py", url, bearer, "none", certificate.both)
    printed = await asyncio.wait_for(process.stdout.read(), PATIENCE_S)
    await process.wait()
    assert process.returncode == 1 and b"422" in printed and b"bundle-policy=max-bundle" in printed, printed.decode()

    bob = await join("sin", room_name, "bob")
    await run_client("/usr/bin/python3", "gstreamer_whip.py", url, bearer, "max-bundle", certificate.both)
    await asyncio.gather(livekit_sees(bob, "gstreamer"), livekit_hears(bob, "gstreamer"))
    await watch(connection(), BASE["iad"] + "/whep?publisher=gstreamer", token(room_name, "viewer"))


async def test_every_refusal_says_what_to_do(join, room_name, connection):
    whip, whep, bearer = BASE["fra"] + "/whip", BASE["fra"] + "/whep", token(room_name, "camera")
    publisher = connection()
    publisher.addTrack(Tone())
    resource, answer = await exchange(publisher, whip, bearer)
    offer, etag, sdp = publisher.localDescription.sdp, answer.headers["ETag"], "application/sdp"
    patch = "application/trickle-ice-sdpfrag"
    unbundled = re.sub("a=group:BUNDLE.*\r\n", "", offer)
    fresh = "a=ice-ufrag:fresh\r\na=ice-pwd:a-password-of-22-characters\r\n"
    cases = [
        (401, "Bearer", ask("POST", whip, None, offer, sdp)),
        (401, "invalid token", ask("POST", whip, "x", offer, sdp)),
        (403, "canPublish", ask("POST", whip, token(room_name, "camera", can_publish=False), offer, sdp)),
        (403, "canSubscribe", ask("POST", whep, token(room_name, "v", can_subscribe=False), offer, sdp)),
        (415, sdp, ask("POST", whip, bearer, offer, "text/plain")),
        (406, sdp, ask("POST", whip, bearer, offer, sdp, Accept="text/html")),
        (400, "v=0", ask("POST", whip, bearer, "hello", sdp)),
        (413, "65536", ask("POST", whip, bearer, "x" * 70_000, sdp)),
        (422, "max-bundle", ask("POST", whip, bearer, unbundled, sdp)),
        (422, "/whep", ask("POST", whip, bearer, offer.replace("sendrecv", "recvonly"), sdp)),
        (422, "recvonly", ask("POST", whep, token(room_name, "v"), offer, sdp)),
        (409, "begun", ask("POST", whep + "?publisher=nobody", token(room_name, "v"), offer.replace("sendrecv", "recvonly"), sdp)),
        (405, "POST", ask("GET", whip, bearer)),
        (405, "PATCH", ask("POST", resource, bearer, offer, sdp)),
        (404, "POST a new offer", ask("DELETE", whip + "/nothing", bearer)),
        (404, "POST a new offer", ask("DELETE", resource.replace("/whip/", "/whep/"), bearer)),
        (403, "somebody else's", ask("DELETE", resource, token(room_name, "eve"))),
        (401, "Bearer", ask("DELETE", resource, None)),
        (428, "If-Match", ask("PATCH", resource, bearer, fresh, patch)),
        (412, "ETag", ask("PATCH", resource, bearer, "a=end-of-candidates\r\n", patch, If_Match='"old"')),
        (412, "If-Match: *", ask("PATCH", resource, bearer, fresh, patch, If_Match=etag)),
        (415, patch, ask("PATCH", resource, bearer, fresh, sdp, If_Match="*")),
        (400, "line 1", ask("PATCH", resource, bearer, "hello", patch, If_Match="*")),
    ]
    for status, said, request in cases:
        refused = await request
        assert refused.status == status and said in refused.body, (status, said, refused.status, refused.body)
        assert refused.headers["Access-Control-Allow-Origin"] == "*"
    assert publisher.connectionState == "connected", "none of it has touched the publisher"

    asked = await ask("OPTIONS", whip, None)
    assert asked.status == 204 and "authorization" in asked.headers["Access-Control-Allow-Headers"]
    assert (await ask("PATCH", resource, bearer, "a=end-of-candidates\r\n", patch, If_Match=etag)).status == 204
    restarted = await ask("PATCH", resource, bearer, fresh, patch, If_Match="*")
    assert restarted.status == 200 and "a=ice-ufrag:" in restarted.body and "a=candidate:" in restarted.body
    assert restarted.headers["ETag"] not in (None, etag)
    assert (await ask("PATCH", resource, bearer, "a=end-of-candidates\r\n", patch, If_Match=etag)).status == 412
    metrics = (await ask("GET", BASE["fra"] + "/metrics", None)).body
    assert 'meridian_http_requests_refused_total{protocol="whip",status="428"} ' in metrics
    assert (await ask("DELETE", resource, bearer)).status == 200
