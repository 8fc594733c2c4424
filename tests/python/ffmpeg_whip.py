"""Publishes a picture and a tone by FFmpeg's WHIP muxer, as `ffmpeg -f whip` would, until its standard input closes.
usage: ffmpeg_whip.py URL TOKEN CERTIFICATE KEY"""

import fractions
import sys
import threading
import time

import av
import numpy as np

url, token, certificate, key = sys.argv[1:]
# FFmpeg built with GnuTLS, as PyAV's is, makes itself a certificate on P-224, which nothing here verifies.
out = av.open(url, "w", format="whip", options={"authorization": token, "cert_file": certificate, "key_file": key})
video = out.add_stream("libx264", rate=15, options={"profile": "baseline", "preset": "ultrafast", "tune": "zerolatency"})
video.width, video.height, video.pix_fmt, video.gop_size, video.max_b_frames, video.bit_rate = 640, 360, "yuv420p", 15, 0, 800_000
audio = out.add_stream("libopus", rate=48_000, layout="stereo")
stopped = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
start, pictures, chunks = time.monotonic(), 0, 0
while not stopped.wait(0.004):
    now = time.monotonic() - start
    if pictures / 15 <= now:
        rgb = np.zeros((360, 640, 3), np.uint8)
        rgb[:, :320] = 220
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame.pts, frame.time_base = pictures, fractions.Fraction(1, 15)
        out.mux(video.encode(frame))
        pictures += 1
    while chunks / 50 <= now:
        at = (np.arange(960) + chunks * 960) / 48_000
        samples = (0.4 * 32767 * np.sin(2 * np.pi * 440 * at)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.repeat(samples, 2).reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, chunks * 960, fractions.Fraction(1, 48_000)
        out.mux(audio.encode(frame))
        chunks += 1
out.close()
