"""CVAT for video 1.1: the XML that the annotation tool CVAT reads for a task that is a video.

Its description is `XML annotation format` in CVAT's documentation (docs.cvat.ai). A region or box of a frame is a track
of its own with two shapes, as in CVAT's own files: it is there in its frame, and outside in the next one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from xml.sax.saxutils import escape, quoteattr

from accel.files.whole_files import whole_file
from accel.formats.files import LineFile, json_lines
from accel.formats.masks import regions
from accel.formats.writer import PART, FrameWriter

FILE = "cvat.xml"


class CvatVideo(FrameWriter):
    """`cvat.xml`. Until it is closed there is only `cvat.xml.part`, with a line of JSON for each frame."""

    @staticmethod
    def names():
        return [FILE, FILE + PART]

    def __init__(self, place, video, task):
        super().__init__(place, video, task)
        self._lines = LineFile(place(FILE + PART))

    def write(self, frame):
        self._lines.add(json.dumps({"frame": frame.index, "shapes": list(self._shapes(frame))}))

    def close(self):
        self._lines.close()
        last = max((line["frame"] for line in json_lines(self._lines.path)), default=-1)
        with whole_file(self.place(FILE)) as file:
            for text in self._document(last + 1):
                file.write(text.encode())
        self._lines.path.unlink()

    def abort(self):
        with suppress(OSError):
            self._lines.close()

    def _shapes(self, frame) -> Iterator[tuple[str, str, str]]:
        """Yield the label, tag and attributes of each shape in a frame."""
        if self.task.name == "detection":
            said = frame.prediction
            for n in range(int(said.count)):
                x1, y1, x2, y2 = (float(corner) for corner in said.boxes[n])
                corners = f'xtl="{x1:.2f}" ytl="{y1:.2f}" xbr="{x2 + 1:.2f}" ybr="{y2 + 1:.2f}"'
                yield self.task.class_names[int(said.classes[n])], "box", corners
            return
        for region in regions(frame.labels, len(self.task.class_names)):
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in region.outline.tolist())
            yield self.task.class_names[region.class_index], "polygon", f'points="{points}"'

    def _document(self, size: int) -> Iterator[str]:
        height, width = self.video.size
        yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'
        yield f"      <id>0</id>\n      <name>{escape(self.video.name)}</name>\n      <size>{size}</size>\n"
        yield "      <mode>interpolation</mode>\n      <overlap>0</overlap>\n      <bugtracker></bugtracker>\n"
        yield "      <flipped>False</flipped>\n      <created></created>\n      <updated></updated>\n      <labels>\n"
        for name in self.task.class_names:
            yield f"        <label>\n          <name>{escape(name)}</name>\n          <attributes>\n"
            yield "          </attributes>\n        </label>\n"
        yield "      </labels>\n      <segments>\n        <segment>\n          <id>0</id>\n          <start>0</start>\n"
        yield f"          <stop>{max(size - 1, 0)}</stop>\n          <url></url>\n        </segment>\n"
        yield "      </segments>\n"
        yield "      <owner>\n        <username></username>\n        <email></email>\n      </owner>\n"
        yield f"      <original_size>\n        <width>{width}</width>\n        <height>{height}</height>\n"
        yield "      </original_size>\n    </task>\n    <dumped></dumped>\n  </meta>\n"
        track = 0
        for line in json_lines(self._lines.path):
            for label, tag, attributes in line["shapes"]:
                yield f'  <track id="{track}" label={quoteattr(label)} source="auto">\n'
                for frame, outside in ((line["frame"], 0), (line["frame"] + 1, 1)):
                    if frame < size:
                        states = f'outside="{outside}" occluded="0" keyframe="1"'
                        yield f'    <{tag} frame="{frame}" {attributes} {states}>\n    </{tag}>\n'
                yield "  </track>\n"
                track += 1
        yield "</annotations>\n"
