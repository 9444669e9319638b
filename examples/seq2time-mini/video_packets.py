"""What a packet of a video file is, read off its first bytes without decoding it."""

from dataclasses import dataclass


@dataclass(slots=True)
class Packet:
    pts: int
    is_shown: bool
    is_key: bool
    is_droppable: bool


def packet_reader(codec):
    """
    What a packet is: whether its picture is shown, whether decoding may start at it, and whether it can be dropped
    because no other picture refers to it. The last is only known of H.264 (`nal_ref_idc` 0).
    """
    extradata = codec.extradata or b""
    length_size = (extradata[4] & 3) + 1 if extradata[:1] == b"\x01" else 0

    def read(packet):
        return not packet.is_discard, packet.is_keyframe, False

    def read_vp8(packet):
        return bool(memoryview(packet)[0] >> 4 & 1), packet.is_keyframe, False

    def read_h264(packet):
        is_key, data = packet.is_keyframe, memoryview(packet)
        for start, stop in _nal_units(data, length_size):
            kind = data[start] & 31 if start < min(stop, len(data)) else 0
            if kind == 6 and is_key:
                is_key = not _recovers_gradually(bytes(data[start + 1 : stop]))
            if kind in (1, 5):  # a coded slice
                return not packet.is_discard, is_key, data[start] >> 5 & 3 == 0
        return not packet.is_discard, is_key, False

    return {"h264": read_h264, "vp8": read_vp8, "libvpx": read_vp8}.get(codec.name, read)


def _recovers_gradually(messages: bytes) -> bool:
    """Whether a supplemental message announces a recovery point that is exact only some frames later."""
    place = 0
    while place + 2 < len(messages):
        header = []
        for _ in ("type", "size"):
            value = 0
            while place < len(messages) and messages[place] == 255:
                value, place = value + 255, place + 1
            if place >= len(messages):
                return False
            header.append(value + messages[place])
            place += 1
        if header[0] == 6 and place < len(messages):
            return messages[place] < 128  # recovery_frame_cnt in Exp-Golomb code: a leading 1 is zero frames
        place += header[1]
    return False


def _nal_units(data, length_size):
    """Spans of the NAL units in a packet: length-prefixed as in MP4, or behind start codes as in a raw stream."""
    if length_size:
        place = 0
        while place + length_size < len(data):
            size = int.from_bytes(data[place : place + length_size], "big")
            yield place + length_size, place + length_size + size
            place += length_size + size
    else:
        data = bytes(data)
        place = data.find(b"\0\0\1")
        while place >= 0:
            following = data.find(b"\0\0\1", place + 3)
            yield place + 3, len(data) if following < 0 else following
            place = following
