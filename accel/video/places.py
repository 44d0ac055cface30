"""The number and time of each frame in a video stream, even if frames have been lost."""

from __future__ import annotations

import heapq
import math
from fractions import Fraction

import av

JUMP = 10.0  # seconds; a longer step, where clocks may be set anew, is one of the clock (as in FFmpeg's command line)
BACK = 1.0  # seconds; a longer step back always is one
_CLOCK_MAY_JUMP = 0x200  # AVFMT_TS_DISCONT: transport streams and the like
_UNSURE = 32  # frames that may come between where packets were lost and where the gap shows: decoders reorder


class Places:
    """Numbers the frames of one iteration over a container's video stream.

    Frames are counted. The packets of frames that could not be decoded tell how many these were: the packets whose
    times are in the gap. At a constant frame rate, this is at most the number that fits into the gap. Packets that are
    not frames (VP8's hidden ones, fields) leave no gap. If packets themselves were lost, only the time tells.

    fps: the frame rate that the stream states.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream, fps: Fraction | float):
        self._fps = float(fps)
        self._stream = stream
        tick = stream.time_base
        assert tick is not None, "FFmpeg gives every stream one"
        self._tick = float(tick)
        self._first_stamp = None if stream.start_time is None else float(stream.start_time * tick)
        self._clock_may_jump = bool(int(container.format.flags) & _CLOCK_MAY_JUMP)
        # An AVI has no times but the number of each packet, which FFmpeg says is its dts. The pts are guesses.
        self._numbered = container.format.name == "avi"
        self._undecoded = 0  # packets without a frame since the last frame
        average, guessed = stream.average_rate, stream.guessed_rate
        self._steady = average is None or guessed is None or abs(average - guessed) < guessed / 10  # so far
        self._waiting: list[int] = []  # times of packets whose frames have not come, in the stream's ticks
        self._lost: dict[int, int] = {}  # numbers of frames that have not come by their times
        self._damaged = False
        self._unsure = 0  # frames for which a gap may be wider than its packets
        self._last: int | None = None  # time of the last frame, in the stream's ticks
        self._stamp: float | None = None  # the same in seconds
        self._origin = 0.0  # time 0 of the video, on the clock of the stamps
        self._index, self._time = -1, 0.0

    def packet(self, packet: av.Packet) -> None:
        """Register a packet that is about to be decoded."""
        if packet.is_corrupt:
            self.damage(packets_lost=True)
        ticks = packet.dts if self._numbered or packet.pts is None else packet.pts
        if packet.size and ticks is not None and not packet.is_discard:
            heapq.heappush(self._waiting, ticks)

    def damage(self, packets_lost: bool) -> None:
        """Register an error in the place of a frame. packets_lost: whether further packets were lost with it."""
        self._damaged = True
        self._undecoded += 1
        if packets_lost:
            self._unsure = _UNSURE

    def of(self, frame: av.VideoFrame) -> tuple[int, float]:
        """Return the number of the next frame, from 0, and its time in seconds from the start of the stream.

        After damage, decoders may give a frame late. Its number is then less than that of the frame before.
        """
        ticks = self._ticks(frame)
        stamp = None if ticks is None else float(ticks * (frame.time_base or 0))
        self._undecoded = 0
        if ticks in self._lost and stamp is not None:
            return self._lost.pop(ticks), stamp - self._origin
        between = self._between(ticks)
        if stamp is not None and (ahead := self._frames_ahead(stamp)):
            return self._index - ahead, stamp - self._origin
        if self._index < 0:
            self._start(stamp, between)
        elif stamp is None or self._stamp is None:
            self._index, self._time, self._stamp = self._index + 1, self._time + 1 / self._fps, stamp
        else:
            self._step(stamp, stamp - self._stamp, between)
        if ticks is not None:
            self._last = ticks
        self._unsure = max(self._unsure - 1, 0)
        return self._index, self._unrounded()

    def end(self) -> int:
        """Return the number of all frames, including lost ones.

        Decoders may not report damage in the last ones.
        """
        if self._damaged:
            return self._index + 1 + len(self._waiting)
        last = math.inf if self._last is None else self._last
        return self._index + 1 + sum(ticks > last for ticks in self._waiting)

    def _ticks(self, frame: av.VideoFrame) -> int | None:
        """Return the time of the frame on the clock of the packets."""
        if not self._numbered:
            return frame.pts
        if not self._stream.codec_context.has_b_frames:
            return frame.dts
        # Stored out of order, frames come in order: each takes the next number.
        first = heapq.nsmallest(self._undecoded + 1, self._waiting)
        return first[-1] if first else None

    def _unrounded(self) -> float:
        """Return the frame's time. If it equals a time at the stated rate up to the rounding to ticks, return that."""
        at_rate = round(self._time * self._fps) / self._fps
        return at_rate if abs(at_rate - self._time) < 0.51 * self._tick else self._time

    def _start(self, stamp: float | None, between: list[int]) -> None:
        """Start at the first decodable frame. Damaged frames before it count. Frames that only lack their key frame do
        not: decoders skip them silently."""
        self._index, self._stamp = 0, stamp
        if stamp is None:
            return
        self._origin = stamp
        if self._damaged and self._first_stamp is not None and self._first_stamp < stamp:
            self._index, self._origin = len(between), self._first_stamp
            self._lost = {ticks: number for number, ticks in enumerate(between)}
        self._time = stamp - self._origin

    def _step(self, stamp: float, step: float, between: list[int]) -> None:
        lost = 0
        if step < -BACK or (self._clock_may_jump and step > max(JUMP, 5 / self._fps)):
            self._lost = {}
            self._origin += step - 1 / self._fps
        elif step > 0:
            lost = self._lost_in(step, len(between))
        if lost == len(between):
            self._lost |= {ticks: number for number, ticks in enumerate(between, self._index + 1)}
        self._index += 1 + lost
        self._time = max(stamp - self._origin, self._time)
        self._stamp = stamp if step > 0 or step < -BACK else self._stamp

    def _lost_in(self, step: float, packets: int) -> int:
        """Return how many frames are lost between two that are `step` seconds apart, with this number of packets
        between them."""
        fit = max(round(step * self._fps) - 1, 0)
        if self._steady and step * self._fps > 0.5:
            lost = fit if self._unsure or self._reorders_after_damage() else min(packets, fit)
            self._steady = lost == fit
            return lost
        self._steady = False
        return packets if self._damaged else 0

    def _reorders_after_damage(self) -> bool:
        """Return whether a frame may come before packets of earlier ones: decoders give what they have."""
        return self._damaged and bool(self._stream.codec_context.has_b_frames)

    def _frames_ahead(self, stamp: float) -> int:
        """Return how many frames the last frame is ahead of one that comes late. 0 for one that does not."""
        if self._stamp is None or not (self._steady and self._reorders_after_damage()):
            return 0
        late = self._stamp - stamp
        return round(late * self._fps) if 0 < late <= BACK else 0

    def _between(self, now: int | None) -> list[int]:
        """Return the times of the packets between the last frame and this one, and forget all up to this one."""
        if now is None:
            if self._waiting:
                heapq.heappop(self._waiting)
            return []
        found = []
        while self._waiting and self._waiting[0] <= now:
            ticks = heapq.heappop(self._waiting)
            if ticks < now and (self._last is None or ticks > self._last):
                found.append(ticks)
        return found
