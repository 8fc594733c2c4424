"""Recordings over failures of edges and of the store, with processes that are killed and an S3 that is `moto`'s."""

import asyncio
import base64
import hashlib
import json
import threading
import time
import urllib.request

import boto3
import numpy as np
import pytest
from livekit import api, rtc
from moto import settings as moto_settings
from moto.core.authorization import ActionAuthenticatorMixin
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from conftest import eventually
from mesh import Mesh
from test_recording import decode
from test_two_pops import HEIGHT, RATE, WIDTH, send_colour, send_tone

BUCKET = "recordings"


class Store:
    """An S3 that can be away, in trouble, or refuse everybody."""

    def __init__(self):
        self.refusals = 0
        self.checksums: dict[str, str | None] = {}
        self.app = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self.answer, threaded=True)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        # Its state is the process's.
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/reset", method="POST"))
        secrets = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=self.url, **secrets)
        self.client.create_bucket(Bucket=BUCKET)

    def answer(self, environ, start):
        if environ["REQUEST_METHOD"] in ("PUT", "POST") and self.refusals:
            self.refusals -= 1
            start("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        if environ["REQUEST_METHOD"] == "PUT":
            self.checksums[environ["PATH_INFO"].removeprefix(f"/{BUCKET}/")] = environ.get("HTTP_X_AMZ_CHECKSUM_SHA256")
        return self.app(environ, start)

    def refuse_everybody(self, refused: bool):
        moto_settings.INITIAL_NO_AUTH_ACTION_COUNT = 0 if refused else float("inf")
        ActionAuthenticatorMixin.request_count = 0

    def keys(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def lines(self, edge: str) -> list[tuple[str, dict]]:
        """Lines of the manifests of all of an edge's parts, with the part's prefix."""
        pieces = [key for key in self.keys() if f"/{edge}-" in key and key.endswith(".jsonl")]
        return [(piece.split("/manifest/")[0], json.loads(line)) for piece in pieces for line in self.get(piece).splitlines()]

    def segments(self, edge: str, source: str) -> list[tuple[str, dict]]:
        lines = self.lines(edge)
        tracks = {line["track"] for _, line in lines if line["kind"] == "track" and line["source"] == source}
        return [(part, line) for part, line in lines if line["kind"] == "segment" and line["track"] in tracks]

    def close(self):
        self.refuse_everybody(False)
        self.server.shutdown()
        self.thread.join()


@pytest.fixture
def store():
    store = Store()
    yield store
    store.close()


@pytest.fixture
def mesh(tmp_path, store):
    options = f"aws_endpoint = '{store.url}'\naws_allow_http = 'true'\naws_region = 'us-east-1'\naws_access_key_id = 'key'\naws_secret_access_key = 'secret'"
    mesh = Mesh(tmp_path, f"store = 's3://{BUCKET}/in/here'\n[recording.store_options]\n{options}")
    yield mesh
    mesh.close()


@pytest.fixture
async def join(mesh, room_name):
    rooms, senders = [], []
    stop = asyncio.Event()

    async def connect(edge: str, identity: str) -> int:
        """Somebody with camera and microphone; gives the time since when their media is sent, in ms since 1970."""
        grants = api.VideoGrants(room_join=True, room=room_name)
        token = api.AccessToken(mesh.api_key, mesh.api_secret).with_identity(identity).with_name(identity.title()).with_grants(grants)
        room = rtc.Room()
        rooms.append(room)
        await asyncio.wait_for(room.connect(mesh.url(edge), token.to_jwt()), 20)
        camera, microphone = rtc.VideoSource(WIDTH, HEIGHT), rtc.AudioSource(RATE, 1)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA, simulcast=False)
        await room.local_participant.publish_track(rtc.LocalVideoTrack.create_video_track("camera", camera), options)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE, dtx=False)
        await room.local_participant.publish_track(rtc.LocalAudioTrack.create_audio_track("microphone", microphone), options)
        senders.extend([asyncio.create_task(send_colour(camera, stop)), asyncio.create_task(send_tone(microphone, 120))])
        return int(time.time() * 1000)

    yield connect
    stop.set()
    for sender in senders:
        sender.cancel()
    for room in rooms:
        await asyncio.wait_for(room.disconnect(), 10)


async def ask(mesh: Mesh, method: str, edge: str, room: str) -> dict:
    grants = api.VideoGrants(room_record=True, room=room)
    token = api.AccessToken(mesh.api_key, mesh.api_secret).with_identity("host").with_grants(grants).to_jwt()
    url = mesh.url(edge).replace("ws", "http", 1) + f"/api/v1/rooms/{room}/recording"
    request = urllib.request.Request(url, method=method, headers={"Authorization": f"Bearer {token}"})

    def send():
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    return await asyncio.to_thread(send)


async def until(condition, what: str, seconds: float = 30):
    """As `eventually`, for conditions that talk to the store."""
    deadline = time.monotonic() + seconds
    while not (value := await asyncio.to_thread(condition)):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.1)
    return value


def spooled(mesh: Mesh, edge: str) -> list[dict]:
    """Lines of the manifest that are not in the store yet."""

    def read(path) -> str:
        try:
            return path.read_text()
        except FileNotFoundError:
            # Renamed, or uploaded, in this very moment.
            return ""

    pieces = [read(path) for path in mesh.spool(edge).glob("*/*/manifest/*")]
    return [json.loads(line) for piece in pieces for line in piece.splitlines(True) if line.endswith("\n")]


def runs(segments: list[dict]) -> list[list[dict]]:
    """Segments that decode one behind the other."""
    found: list[list[dict]] = []
    for segment in sorted(segments, key=lambda line: line["at"]):
        if segment["keyframe"] or not found:
            found.append([])
        found[-1].append(segment)
    return found


def decode_all(store: Store, part: str, segments: list[dict], folder, *options: str) -> bytes:
    decoded = b""
    for index, run in enumerate(runs(segments)):
        assert run[0]["keyframe"]
        names = []
        for line in run:
            path = folder / f"{index}-{line['file'].replace('/', '-')}"
            path.write_bytes(store.get(f"{part}/{line['file']}"))
            assert path.stat().st_size == line["bytes"]
            names.append(f"file '{path}'\n")
        run_file = folder / f"{index}.txt"
        run_file.write_text("".join(names))
        decoded += decode(run_file, *options, before=("-f", "concat", "-safe", "0"))
    return decoded


async def test_a_killed_edge_loses_its_last_moments_only_and_people_are_recorded_where_they_went(mesh, store, join, room_name, tmp_path):
    await asyncio.gather(asyncio.to_thread(mesh.start, "fra"), asyncio.to_thread(mesh.start, "sin"))
    await asyncio.gather(join("fra", "alice"), join("sin", "bob"))
    recording = (await ask(mesh, "PUT", "fra", room_name))["recording"]
    await until(lambda: all(sum(f"/{edge}-" in key for key in store.keys()) >= 2 for edge in ("fra", "sin")), "both record")
    killed = int(time.time() * 1000)
    mesh.kill("fra")
    left_open = [path.name for path in mesh.spool("fra").rglob("*.part")]
    assert left_open, "it was killed in the middle of files"
    published = await join("sin", "alice")

    def hers() -> list[dict]:
        """Files of alice's at the other edge, as the manifest has them that is still open there."""
        lines = [line for _, line in store.lines("sin")] + spooled(mesh, "sin")
        stays = {line["participant"] for line in lines if line["kind"] == "joined" and line["identity"] == "alice"}
        tracks = {line["track"] for line in lines if line["kind"] == "track" and line["participant"] in stays}
        return [line for line in lines if line["kind"] == "segment" and line["track"] in tracks]

    first = (await until(hers, "alice is recorded at sin"))[0]
    print(f"recorded at the other edge {first['at'] - published} ms after she sent, {first['at'] - killed} ms after the kill")
    assert first["at"] - published < 2_000
    # The edge starts again over the same spool.
    await asyncio.to_thread(mesh.start, "fra")
    interrupted = await until(lambda: [line for _, line in store.lines("fra") if line["kind"] == "interrupted"], "what was open is in the store")
    assert interrupted[0]["at"] >= killed
    assert mesh.metric("fra", "recording_salvaged_files_total") >= 1
    await until(lambda: not [path for path in mesh.spool("fra").rglob("*") if path.is_file()], "the spool is empty")
    for source in ("camera", "microphone"):
        segments = store.segments("fra", source)
        part = segments[0][0]
        lines = [line for _, line in segments if _ == part]
        end = max(line["at"] + line["duration_ms"] for line in lines)
        print(f"{source}: recorded to {killed - end} ms before the kill, {len(lines)} segments")
        assert killed - end < 4_000
        gaps = [b["at"] - a["at"] - a["duration_ms"] for a, b in zip(lines, lines[1:])]
        assert all(gap < 200 for gap in gaps), gaps
    await ask(mesh, "DELETE", "sin", room_name)
    await until(lambda: [line for _, line in store.lines("sin") if line["kind"] == "ended"], "sin has completed its part")
    assert all(key.startswith(f"in/here/{recording}/") for key in store.keys())
    for edge in ("fra", "sin"):
        for source, options, unit in (("camera", ("-fps_mode", "passthrough", "-pix_fmt", "gray", "-vf", f"scale={WIDTH}:{HEIGHT}", "-f", "rawvideo"), WIDTH * HEIGHT / 15), ("microphone", ("-ac", "1", "-ar", str(RATE), "-f", "s16le"), 2 * RATE)):
            segments = store.segments(edge, source)
            for part, track in {(part, line["track"]) for part, line in segments}:
                lines = [line for one, line in segments if one == part and line["track"] == track]
                folder = tmp_path / f"{edge}-{track}"
                folder.mkdir()
                decoded = await asyncio.to_thread(decode_all, store, part, lines, folder, *options)
                if source == "microphone":
                    assert len(decoded) / unit > sum(line["duration_ms"] for line in lines) / 1000 - 0.3
                else:
                    frames = np.frombuffer(decoded, np.uint8).reshape(-1, HEIGHT, WIDTH)
                    assert len(frames) >= sum(line["frames"] for line in lines) - 2
                    assert frames[-1][100:200, 50:250].mean() > 180


async def test_a_store_that_refuses_or_fails_gets_everything_in_the_end_and_hosts_are_told(mesh, store, join, room_name):
    # A file that goes in parts, as if left from before.
    large = np.random.default_rng(1).bytes(17 << 20)
    left = mesh.spool("fra") / "rec-before/fra-1-0/TR_1/000000.mkv"
    left.parent.mkdir(parents=True)
    left.write_bytes(large)
    store.refuse_everybody(True)
    await asyncio.to_thread(mesh.start, "fra")
    await join("fra", "alice")
    await ask(mesh, "PUT", "fra", room_name)

    async def trouble():
        return (await ask(mesh, "GET", "fra", room_name))["trouble"]

    async with asyncio.timeout(20):
        while not (said := await trouble()):
            await asyncio.sleep(0.1)
    print(said)
    assert "credentials" in said and "recording.store_options" in said, said
    assert mesh.metric("fra", "recording_in_trouble") == 1 and mesh.metric("fra", "recording_upload_failures_total") >= 1
    await eventually(lambda: [path for path in mesh.spool("fra").rglob("*.mkv") if path != left], "it is recorded all the while")
    waiting = {path.relative_to(mesh.spool("fra")) for path in mesh.spool("fra").rglob("*.mkv")}
    # Then the store takes credentials again, but is overloaded at first.
    store.refusals = 3
    store.refuse_everybody(False)
    keys = await until(lambda: (keys := set(store.keys())) >= {f"in/here/{path}" for path in waiting} and keys, "everything that waited is in the store", 60)
    assert store.refusals == 0 and "in/here/rec-before/fra-1-0/TR_1/000000.mkv" in keys
    assert hashlib.sha256(store.get("in/here/rec-before/fra-1-0/TR_1/000000.mkv")).digest() == hashlib.sha256(large).digest()
    checked = next(f"in/here/{path}" for path in waiting if "rec-before" not in path.parts)
    assert store.checksums[checked] == base64.b64encode(hashlib.sha256(store.get(checked)).digest()).decode()
    async with asyncio.timeout(20):
        while await trouble():
            await asyncio.sleep(0.1)
