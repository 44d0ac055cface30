"""Decode an open FFmpeg container into frames, also from damaged files, and detect where a video ends."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av

from accel.files.image_headers import max_pixels, refuse_too_large
from accel.video.places import Places

_ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC
_SAY_WHEN_THEY_END = ("matroska,webm", "asf", "nut")  # formats whose headers do not say how long they are
_TS_PACKET = 188  # bytes of a packet in an MPEG transport stream


def decode(
    container: av.container.InputContainer, places: Places | None = None
) -> Iterator[tuple[av.VideoFrame, None] | tuple[None, Exception]]:
    """Yield the frames of the video stream, and errors in the place of frames. Decoding continues after a bad packet.

    places: an object that is informed about all packets and errors.

    An error at the end of the file comes last: a decoder holds frames back, and those are from before the cut. Errors
    come without their tracebacks. A traceback would keep this generator, and with it the decoder and its threads, alive
    until the garbage collector runs.
    """
    stream = video_stream(container)
    packets = container.demux(stream)
    cut: Exception | None = None
    ended = False
    while not ended:
        packet: av.Packet | None
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            cut, packet = error.with_traceback(None), None
            if places is not None:
                places.damage(packets_lost=True)
        ended = packet is None
        if places is not None and packet is not None:
            places.packet(packet)
        if packet is not None and packet.is_corrupt:
            if cut is not None:
                yield None, cut
            cut = ValueError("incomplete data")
            continue
        if cut is not None and packet is not None and packet.size:  # it was not the end
            yield None, cut
            cut = None
        try:
            for frame in stream.codec_context.decode(packet):
                if frame.time_base is None:  # held back until an error ended the packets
                    frame.time_base = stream.time_base
                yield frame, None
        except av.error.EOFError:  # flushed before: `demux` ends with an empty packet
            pass
        except av.FFmpegError as error:
            if places is not None:
                places.damage(packets_lost=False)
            yield None, error.with_traceback(None)
    if cut is not None:
        yield None, cut


def video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """Return the first video stream of a container that has one. A cover picture, as in music files, does not count."""
    stream = _first_video_stream(container)
    assert stream is not None, "`check_video` has been called"
    return stream


def _first_video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    return next((stream for stream in container.streams.video if not _is_cover(stream)), None)


def _is_cover(stream: av.stream.Stream) -> bool:
    return bool(int(getattr(stream, "disposition", 0)) & _ATTACHED_PICTURE)  # av >= 14


def check_video(container: av.container.InputContainer, name: str, expected: str) -> None:
    """Close the container and raise ValueError if it has no video that can be decoded, or if its frames are too large.

    The decoder is also limited to frames of that size, in case larger ones come later.
    """
    stream = _first_video_stream(container)
    if stream is None:
        kinds = ("cover picture" if _is_cover(other) else other.type for other in container.streams)
        found = ", ".join(kinds) or "no streams"
        container.close()
        raise ValueError(f"{name}: no video stream (found: {found}); expected {expected}")
    if stream.codec_context is None:  # a header too damaged to name its codec, or a codec unknown
        container.close()
        raise ValueError(f"{name}: FFmpeg has no decoder for its video stream; expected {expected}")
    decoder = stream.codec_context
    try:
        refuse_too_large(decoder.width or 0, decoder.height or 0, name)
    except ValueError:
        container.close()
        raise
    decoder.options = {**decoder.options, "max_pixels": str(min(max_pixels(), 2**31 - 1))}


def declared_end(container: av.container.InputContainer) -> float | None:
    """Return the time in seconds at which the last frame ends, according to the header. None if the header does not
    say."""
    span = _declared_span(container)
    by_other_streams = video_stream(container).duration is None and len(container.streams) > 1
    return None if span is None or by_other_streams else span[1]


def declared_frames(container: av.container.InputContainer, fps: Fraction | float) -> int | None:
    """Return the number of frames according to the header, or an estimate at this frame rate. None if the header does
    not say."""
    stream = video_stream(container)
    if stream.frames:
        return stream.frames
    length = declared_length(container)
    if length is None:
        return None
    frames = max(1, round(length * fps))
    if container.format.name == "mpegts" and container.size > 0:  # a clock that was set anew makes for any length
        frames = min(frames, max(1, container.size // _TS_PACKET))  # a frame takes one at least
    return frames


def declared_length(container: av.container.InputContainer) -> float | None:
    """Return the seconds from the first frame to the end of the last, according to the header. None if the header does
    not say.

    Clocks may start at any time, so this is not the time at which the last frame ends.
    """
    span = _declared_span(container)
    return None if span is None else span[1] - span[0]


def _declared_span(container: av.container.InputContainer) -> tuple[float, float] | None:
    """Return the times, in seconds, at which the first frame begins and the last one ends, according to the header."""
    stream = video_stream(container)
    if stream.duration is not None and stream.time_base is not None:
        tick = stream.time_base
        start, length = (float((ticks or 0) * tick) for ticks in (stream.start_time, stream.duration))
    elif container.duration is not None:
        start, length = ((ticks or 0) / av.time_base for ticks in (container.start_time, container.duration))
    else:
        return None
    says_end = container.format.name in _SAY_WHEN_THEY_END and length > start
    return start, length if says_end else start + length


def frame_end(frame: av.VideoFrame, fps: Fraction | float) -> float:
    """Return the time in seconds at which the next frame is due. 0 if the frame has no time."""
    if frame.time is None:
        return 0.0
    duration = getattr(frame, "duration", None)  # av >= 15
    return frame.time + float(duration * (frame.time_base or 0) if duration else 1 / fps)


def ends_early(
    container: av.container.InputContainer, delivered: int | None, end: float, fps: Fraction | float
) -> bool:
    """Return whether fewer frames came than the header promises.

    delivered: the number of frames that came. None if this number is known to be useless.
    end: the end of the last of them, in seconds.
    """
    declared = declared_end(container)
    if declared is None:
        return False
    if "mp4" not in container.format.name:  # other headers may be off by some frames
        return end + 0.5 < declared
    stream = video_stream(container)
    start = float((stream.start_time or 0) * (stream.time_base or 0))
    hidden = round((declared - start) * fps) < stream.frames  # an edit list shows a part of what is stored
    if delivered is not None and stream.frames and not hidden:
        return delivered < stream.frames
    return end + 0.5 / fps < declared


def short(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
