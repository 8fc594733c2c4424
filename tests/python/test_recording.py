"""A meeting on two PoPs is recorded: each PoP writes what its own people publish, without transcoding; ffmpeg judges the files."""

import asyncio
import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from livekit import api, rtc

from conftest import EDGES, MESH, eventually
from test_two_pops import HEIGHT, RATE, TONE_HZ, WIDTH, send_colour, send_tone

STORE = Path(MESH["recordings"])


def recorder_token(room: str, **grants) -> str:
    video = api.VideoGrants(**({"room_record": True, "room": room} | grants))
    return api.AccessToken(MESH["api_key"], MESH["api_secret"]).with_identity("host").with_grants(video).to_jwt()


async def ask(method: str, pop: str, room: str, token: str) -> tuple[int, dict]:
    url = EDGES[pop].replace("ws", "http", 1) + f"/api/v1/rooms/{room}/recording"
    request = urllib.request.Request(url, method=method, headers={"Authorization": f"Bearer {token}"})

    def send():
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    return await asyncio.to_thread(send)


def manifest(recording: str, pop: str) -> list[dict]:
    pieces = sorted(STORE.glob(f"{recording}/{pop}-*/manifest/*.jsonl"))
    return [json.loads(line) for piece in pieces for line in piece.read_text().splitlines()]


def files(recording: str, pop: str, source: str) -> list[tuple[dict, Path]]:
    lines = manifest(recording, pop)
    tracks = {line["track"] for line in lines if line["kind"] == "track" and line["source"] == source}
    part = next(STORE.glob(f"{recording}/{pop}-*"))
    segments = (line for line in lines if line["kind"] == "segment" and line["track"] in tracks)
    return [(line, part / line["file"]) for line in segments]


def decode(path: Path, *options: str, before: tuple[str, ...] = ()) -> bytes:
    command = ["ffmpeg", "-v", "error", "-nostdin", *before, "-i", str(path), *options, "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert not done.stderr, done.stderr
    return done.stdout


async def publish_tone(room: rtc.Room) -> asyncio.Task:
    source = rtc.AudioSource(RATE, 1)
    track = rtc.LocalAudioTrack.create_audio_track("microphone", source)
    options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE, dtx=False)
    await room.local_participant.publish_track(track, options)
    return asyncio.create_task(send_tone(source, 60))


async def test_both_pops_record_their_own_people_until_it_is_stopped(join, room_name):
    alice = await join("fra", room_name, "alice")
    bob = await join("sin", room_name, "bob")
    camera = rtc.VideoSource(WIDTH, HEIGHT)
    track = rtc.LocalVideoTrack.create_video_track("camera", camera)
    options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_CAMERA, simulcast=True)
    await alice.local_participant.publish_track(track, options)
    stop = asyncio.Event()
    senders = [asyncio.create_task(send_colour(camera, stop)), await publish_tone(alice)]
    host = recorder_token(room_name)
    try:
        status, answer = await ask("PUT", "fra", room_name, host)
        assert status == 202 and answer["trouble"] is None, answer
        recording = answer["recording"]
        # Everybody learns of it, on the other PoP as well.
        await eventually(lambda: alice.isrecording if hasattr(alice, "isrecording") else True, "alice is told")

        async def known(pop):
            while (await ask("GET", pop, room_name, host))[1]["recording"] != recording:
                await asyncio.sleep(0.05)

        async with asyncio.timeout(10):
            await known("fra")
            await known("sin")
        assert (await ask("PUT", "sin", room_name, host))[1]["recording"] == recording, "asked twice, it stays one recording"
        # Bob begins to speak while it runs.
        senders.append(await publish_tone(bob))
        await eventually(lambda: len(files(recording, "fra", "camera")) >= 2 if manifest(recording, "fra") else False, "two files of the camera in the store")
        await eventually(lambda: bool(manifest(recording, "sin")) and files(recording, "sin", "microphone"), "bob's voice in the store")
        assert (await ask("DELETE", "sin", room_name, host))[0] == 202
        for pop in ("fra", "sin"):
            await eventually(lambda: [line for line in manifest(recording, pop) if line["kind"] == "ended"], f"{pop} has completed its part")
    finally:
        stop.set()
        for sender in senders[1:]:
            sender.cancel()
        await senders[0]
    people = {line["identity"] for line in manifest(recording, "fra") if line["kind"] == "joined"}
    assert people == {"alice"}
    best = [(line, path) for line, path in files(recording, "fra", "camera") if line["size"] == [WIDTH, HEIGHT]]
    assert best, "the best layer is what is recorded"
    line, path = next((line, path) for line, path in best if line["keyframe"])
    picture = np.frombuffer(decode(path, "-frames:v", "1", "-pix_fmt", "gray", "-f", "rawvideo"), np.uint8).reshape(HEIGHT, WIDTH)
    assert picture[100:200, 50:250].mean() > 180 and picture[100:200, 400:600].mean() < 60
    for pop in ("fra", "sin"):
        line, path = max(files(recording, pop, "microphone"), key=lambda entry: entry[0]["duration_ms"])
        assert 500 < line["duration_ms"] <= 4000 and line["bytes"] == path.stat().st_size
        sound = np.frombuffer(decode(path, "-ac", "1", "-ar", str(RATE), "-f", "s16le"), np.int16).astype(float)[RATE // 4 :]
        spectrum = np.abs(np.fft.rfft(sound * np.hanning(sound.size)))
        assert abs(spectrum.argmax() * RATE / sound.size - TONE_HZ) < 5


async def test_whoever_may_not_record_is_told_why(join, room_name):
    await join("fra", room_name, "alice")
    cases = {
        401: "nonsense",
        403: recorder_token(room_name, room_record=False, room_join=True),
    }
    for expected, token in cases.items():
        status, answer = await ask("PUT", "fra", room_name, token)
        assert status == expected and answer["code"] and answer["detail"], answer
    assert (await ask("PUT", "fra", room_name, recorder_token("another-room")))[0] == 403
    assert (await ask("PUT", "fra", room_name + "-empty", recorder_token(room_name + "-empty")))[0] == 404
    assert (await ask("GET", "fra", room_name, recorder_token(room_name)))[1] == {"recording": None, "trouble": None}
