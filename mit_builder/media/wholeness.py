"""Whether a media file ends before its container says it does."""

from __future__ import annotations

from pathlib import Path

import av

from mit_builder.errors import MediaError
from mit_builder.media.probe import open_media

SHORT_BY_S = 1.0
"""Headers that state a length are nearer to it: whole files of eight containers missed it by 0.04 s at most."""
_TS_PACKET_BYTES = (188, 192, 204)
"""Of MPEG transport streams: plain, with a time code (M2TS), with error correction (ETSI TR 101 290)."""


def is_cut_short(path: Path) -> bool:
    """Whether a file's end is missing, as far as one can tell.

    Told by a last packet that is missing or not whole, by a stated length that is not reached, or by a transport
    stream that does not consist of whole packets. A transport stream that ends between two packets passes.
    """
    try:
        with open_media(path) as container:
            if container.format.name == "mpegts":
                return all(path.stat().st_size % n_bytes for n_bytes in _TS_PACKET_BYTES)
            end_s, is_whole = 0.0, False
            for packet in container.demux():
                if packet.size:
                    is_whole = not packet.is_corrupt
                    time = packet.dts if packet.pts is None else packet.pts
                    if time is not None and packet.time_base is not None:
                        end_s = max(end_s, float((time + (packet.duration or 0)) * packet.time_base))
            stated_s = (container.duration or 0) / av.time_base
    except MediaError:
        return True
    return not is_whole or stated_s - end_s > SHORT_BY_S
