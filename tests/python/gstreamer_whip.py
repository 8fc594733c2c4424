"""Publishes a picture and a tone by GStreamer's webrtcbin over WHIP until its standard input closes. Runs with the system's Python and its gi.
usage: gstreamer_whip.py URL TOKEN BUNDLE_POLICY PEM"""

import hashlib
import re
import ssl
import sys
import threading
import urllib.error
import urllib.request
from urllib.parse import urljoin

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

url, token, policy, pem = sys.argv[1:]
Gst.init(None)
pipeline = Gst.Pipeline()
peer = Gst.ElementFactory.make("webrtcbin")
peer.set_property("bundle-policy", policy)
pipeline.add(peer)
# The left half bright, the right half dark.
VIDEO = (
    "videotestsrc is-live=true pattern=solid-color foreground-color=0xffdcdcdc ! video/x-raw,width=320,height=360,framerate=15/1 ! halves. "
    "compositor name=halves background=black sink_0::width=320 sink_0::height=360 ! video/x-raw,width=640,height=360,framerate=15/1 "
    "! videoconvert ! vp8enc deadline=1 cpu-used=8 keyframe-max-dist=30 ! rtpvp8pay ! capsfilter caps=application/x-rtp,media=video,encoding-name=VP8,payload=96"
)
AUDIO = (
    "audiotestsrc is-live=true freq=440 volume=0.4 ! audio/x-raw,rate=48000,channels=1 ! opusenc ! rtpopuspay ! "
    "capsfilter caps=application/x-rtp,media=audio,encoding-name=OPUS,payload=97"
)
loop = GLib.MainLoop()
resource, failure = None, 0


def fingerprint() -> str:
    certificate = "-----BEGIN CERTIFICATE-----" + open(pem).read().split("-----BEGIN CERTIFICATE-----")[1]
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).digest().hex(":").upper()


def certify(_, __, element):
    """webrtcbin makes itself a certificate with an RSA key; ours of ECDSA stands in its place before the offer is made."""
    if element.get_factory().get_name() == "dtlssrtpdec":
        element.set_property("pem", open(pem).read())


def ask(method, to, body=None):
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/sdp"}
    return urllib.request.urlopen(urllib.request.Request(to, body, headers, method=method), timeout=10)


def offered(promise, *_):
    global resource, failure
    # The offer lives as long as the reply.
    reply = promise.get_reply()
    offer = reply.get_value("offer")
    # GStreamer 1.22 takes the hash over the whole PEM, the key in it too.
    text = re.sub("a=fingerprint:sha-256 .*\r\n", f"a=fingerprint:sha-256 {fingerprint()}\r\n", offer.sdp.as_text())
    peer.emit("set-local-description", offer, Gst.Promise.new())
    try:
        with ask("POST", url, text.encode()) as answered:
            resource, text = urljoin(url, answered.headers["Location"]), answered.read().decode()
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode(), file=sys.stderr, flush=True)
        failure = 1
        loop.quit()
        return
    _, answer = GstSdp.SDPMessage.new_from_text(text)
    answer = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, answer)
    peer.emit("set-remote-description", answer, Gst.Promise.new())


def wait_for_end():
    sys.stdin.read()
    GLib.idle_add(loop.quit)


pipeline.connect("deep-element-added", certify)
for source in VIDEO, AUDIO:
    source = Gst.parse_bin_from_description(source, True)
    pipeline.add(source)
    source.link(peer)
peer.connect("on-negotiation-needed", lambda _: peer.emit("create-offer", None, Gst.Promise.new_with_change_func(offered, None, None)))
threading.Thread(target=wait_for_end, daemon=True).start()
pipeline.set_state(Gst.State.PLAYING)
loop.run()
pipeline.set_state(Gst.State.NULL)
if resource:
    ask("DELETE", resource).close()
sys.exit(failure)
