"""Files and names that make FFmpeg open what their bytes or characters name: other files, addresses, devices."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.helpers.videos import write_video


CANARY = "canary.ts"
"""A sound video beside the attacks, which none of them may have opened."""

_SDP = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
_HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
_MPD = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>\n"
)

_TEXTS = {
    "sdp.mp4": _SDP,
    "described.sdp": _SDP,
    "sdp_behind_a_line.avi": "s=x\n" + _SDP,
    "concat.mp4": f"ffconcat version 1.0\nfile {CANARY}\n",
    "concat.ffconcat": f"ffconcat version 1.0\nfile {CANARY}\n",
    "concat_absolute.mp4": "ffconcat version 1.0\nfile '{folder}/" + CANARY + "'\noption safe 0\n",
    "hls.m3u8": _HLS.format(CANARY),
    "hls.mp4": _HLS.format(CANARY),
    "hls_absolute.m3u8": _HLS.format("file://{folder}/" + CANARY),
    "hls_network.m3u8": _HLS.format("http://127.0.0.1:9/a.ts"),
    "hls_key.m3u8": _HLS.format(CANARY).replace("#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{CANARY}"\n#EXTINF'),
    "hls_behind_a_mark.mp4": "\ufeff" + _HLS.format(CANARY),
    "hls_behind_blanks.mp4": "\n\n  " + _HLS.format(CANARY),
    "dash.mpd": _MPD.format(CANARY),
    "dash.mp4": _MPD.format("http://127.0.0.1:9/a.mp4"),
    "subtitles.idx": f"# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n# {CANARY}\n",
    "stations.pls": f"[playlist]\nFile1={CANARY}\nNumberOfEntries=1\nVersion=2\n",
    "links.asx": f'<asx version="3.0"><entry><ref href="{CANARY}"/></entry></asx>',
    "reference.asf": f"[Reference]\nRef1=http://127.0.0.1:9/{CANARY}\n",
    "rtsptext.mov": "RTSPtextrtsp://127.0.0.1:9/a\n",
    "tabs.webm": "WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n",
    "metadata.mkv": ";FFMETADATA1\ntitle=x\n",
    "imf.mxf": '<?xml version="1.0"?><CompositionPlaylist><Id>urn:uuid:0</Id></CompositionPlaylist>\n',
    "graph.mp4": "movie=" + CANARY + "\n",
}

ADDRESSES = (
    "http://127.0.0.1:9/a.mp4",
    "https://127.0.0.1:9/a.mp4",
    "rtsp://127.0.0.1:9/a",
    "rtmp://127.0.0.1:9/a",
    "udp://127.0.0.1:5004",
    "tcp://127.0.0.1:9",
    "ftp://127.0.0.1:9/a.mp4",
    "file:" + CANARY,
    "concat:canary.ts|canary.ts",
    "concatf:hls.m3u8",
    "subfile,,start,0,end,1000,,:" + CANARY,
    "async:" + CANARY,
    "cache:" + CANARY,
    "crypto:" + CANARY,
    "pipe:0",
    "fd:0",
    "data:video/mp4;base64,AAAA",
    "%03d.canary.ts",
    "/dev/zero",
    "/dev/video0",
    ".",
)
"""Names that are no files."""

LOCAL_NAMES = ("http:clip.mp4", "concat:a|b.mp4", "pipe:0.mp4", "file:x.mp4", "clip%03d.mp4", "data:,a.mp4", "a:b.mp4")
"""Names of sound files that FFmpeg would take for something else."""


def write_attacks(folder: Path) -> list[str]:
    """Write the canary and the files into a folder, and return the files' names."""
    write_video(folder / CANARY)
    for name, text in _TEXTS.items():
        (folder / name).write_text(text.replace("{folder}", str(folder)))
    sound = write_video(folder / "sound.mp4").read_bytes()
    for name in LOCAL_NAMES:
        (folder / name).write_bytes(sound)
    (folder / "alias.mov").write_bytes(_with_alias(sound, str(folder / CANARY)))
    return [*_TEXTS, "alias.mov"]


def _with_alias(mp4: bytes, path: str) -> bytes:
    """An MP4 whose frames are said to lie in another file: its data reference is an alias with a path."""
    absolute = path.encode() + b"\0" * (len(path) % 2)
    records = struct.pack(">hH", 2, len(path)) + absolute + struct.pack(">hH", -1, 0)
    alias = b"alis" + bytes(4) + bytes(10) + b"\0" + bytes(27) + bytes(12) + b"\0" + bytes(63) + bytes(16)
    alias += struct.pack(">HH", 1, 1) + bytes(16) + records.ljust(60, b"\0")
    reference = struct.pack(">I", len(alias) + 4) + alias
    old = b"\0\0\0\x0curl \0\0\0\x01"
    assert mp4.count(old) == 1
    place = mp4.index(old)
    grown = mp4[:place] + reference + mp4[place + len(old) :]
    # The boxes around it grow; the frames stand in front of them, so their offsets stay.
    data = bytearray(grown)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = mp4.index(name) - 4
        assert start < place
        (size,) = struct.unpack_from(">I", data, start)
        struct.pack_into(">I", data, start, size + len(reference) - len(old))
    return bytes(data)
