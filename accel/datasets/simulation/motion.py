"""Simulated camera motion: a clip, its label and its flow from one labelled still.

The still is the last frame; the older frames are what a camera driving into the scene saw before. The scene is a
photo pop-up (Hoiem et al., SIGGRAPH 2005): a ground plane below the horizon, walls standing where the ground ends,
the sky far away, and things (cars, people, poles) cut out along the label map, each a flat card standing where its
lowest pixel touches the ground. The depth is a guess, but pictures and flow are of one scene: every pixel of every
frame shows a known point of the still, so the flow is exact and what is hidden is known.

Lengths are in camera heights (about 1.3 m in a car), the focal length is one frame width (a field of view of 53
degrees). The inverse depth of the ground is then (rows below the horizon) / width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from accel.datasets.clips import Clip
from accel.labels import IGNORED

SKY = {"sky"}
GROUND = {"road", "sidewalk", "terrain", "ground", "parking", "lane marking", "path", "grass", "floor", "rails"}
MOVING = {
    "car", "truck", "bus", "train", "van", "vehicle", "motorcycle", "bicycle", "bicyclist", "cyclist", "rider",
    "person", "pedestrian", "animal",
}  # fmt: skip
STANDING = {"pole", "sign", "traffic sign", "traffic light", "street light"}

_CELL = 4  # pixels between the points of the grid, on which depth and the camera's view are computed
_MOST_THINGS = 10  # cut out of a still, the largest; what is left moves with the background
_SMALLEST, _LARGEST = 4e-4, 0.25  # area of a thing, as a share of the frame
_WORTH_CUTTING = 0.5  # pixels of motion against the background, over the clip
_LEAST_AREA = 0.4  # of a piece of the scene in the oldest frame, against what a plane's would be there
_TOLERANCE = 0.05  # pixels, of the inverse of a view
_MOST_STEPS = 10  # to find it
_FOLDED = 0.5  # pixels between what the two ends of a flow vector show, above which the older end is hidden


class SimulatedMotion:
    """A random drive into a labelled still: a function of the still, the length and the random generator alone.

    class_names: of the labels. They say which classes are sky, ground, things that move by themselves and things
                 that stand (the words above are known). Without names, or with none of these words, ground and
                 walls are drawn at random and every smaller region of the label map is a thing.
    forward:  highest speed, camera heights a frame; the speed is uniform from 0. 0.6 is 42 km/h at 15 Hz.
    pan:      scale of the turning rate to left and right (Laplace distributed), frame widths a frame.
    shake:    standard deviation of the camera's jolts up and down, frame widths; sideways it is half of it.
    roll:     standard deviation of the rotation about the line of sight, degrees a frame.
    relief:   how much the depth varies: 1 the pop-up scene, 0 one flat wall.
    objects:  probability that a thing of a moving class moves by itself.
    speed:    highest speed of such a thing, camera heights a frame.
    lighting: standard deviation of the change of brightness from frame to frame, as a factor.
    noise:    highest standard deviation of the sensor noise, grey levels; uniform from 0.
    blur:     probability that the clip has motion blur, the shutter open for up to 0.6 of the time of a frame.
    """

    def __init__(
        self,
        class_names: Sequence[str] = (),
        forward: float = 0.6,
        pan: float = 0.005,
        shake: float = 0.0015,
        roll: float = 0.15,
        relief: float = 1.0,
        objects: float = 0.6,
        speed: float = 0.5,
        lighting: float = 0.01,
        noise: float = 2.0,
        blur: float = 0.2,
    ):
        amounts = {"forward": forward, "pan": pan, "shake": shake, "roll": roll, "speed": speed}
        for key, value in {**amounts, "lighting": lighting, "noise": noise}.items():
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"{key} must be a number of 0 or more; got {value}")
        for key, value in (("relief", relief), ("objects", objects), ("blur", blur)):
            if not 0 <= value <= 1:
                raise ValueError(f"{key} must be between 0 and 1; got {value}")
        self.forward, self.pan, self.shake, self.roll = forward, pan, shake, roll
        self.relief, self.objects, self.speed = relief, objects, speed
        self.lighting, self.noise, self.blur = lighting, noise, blur
        words = SKY | GROUND | MOVING | STANDING
        self.class_names = tuple(class_names) if any(name.lower() in words for name in class_names) else ()
        self._sky, self._ground, self._moving, self._standing = (
            [i for i, name in enumerate(self.class_names) if name.lower() in words]
            for words in (SKY, GROUND, MOVING, STANDING)
        )

    def __call__(self, clip: Clip, length: int, rng: np.random.Generator) -> Clip:
        """A clip of `length` frames that ends in the last frame of `clip`, which stays where it is.

        frames: (length, H, W, 3) uint8; the last is the still, but for noise and motion blur.
        labels, boxes: the clip's own; None counts as unlabelled.
        flow:   (length-1, H, W, 2) float32, NaN where a thing hides the point in the older frame, or it lies outside.
        What the still does not show - beyond its border, behind its things - is filled with mirrored surroundings,
        which move as the scene does: where older frames show them, the flow is right, too.
        """
        if length < 1:
            raise ValueError(f"a clip has at least one frame; asked for {length}")
        still = np.ascontiguousarray(clip.frames[-1])
        size = still.shape[:2]
        labels = np.full(size, IGNORED, np.uint8) if clip.labels is None else clip.labels
        if labels.shape != size:
            raise ValueError(f"{clip.name}: frame {size} and labels {labels.shape} (H, W) must be of one size")

        horizon = self._horizon(labels, rng)
        camera = self._camera(length, size, horizon, rng)
        depth = self._depth(labels, horizon, camera, rng)
        things = self._things(still, labels, depth, camera, rng) if length > 1 else []
        frames, flow, hidden = _film(still, depth, camera, things)
        if rng.random() < self.blur:
            frames = _blurred_by_motion(frames, flow, shutter=rng.uniform(0.2, 0.6))
        flow[hidden] = np.nan
        self._expose(frames, rng)
        return Clip(frames, clip.labels, flow, clip.name, clip.boxes)

    # --- the scene --------------------------------------------------------------------------------------------

    def _horizon(self, labels: np.ndarray, rng: np.random.Generator) -> float:
        """Row of the horizon: just above the farthest ground, else somewhere in the middle."""
        height = len(labels)
        row = rng.normal(0.45, 0.05) * height
        ground = np.isin(labels[:, ::4], self._ground).mean(1)
        if self._ground and ground.sum() > 0.02 * height:
            farthest = np.searchsorted(np.cumsum(ground) / ground.sum(), 0.005)
            row = farthest - rng.uniform(0, 0.04) * height
        return float(np.clip(row, 0.2 * height, 0.7 * height))

    def _camera(self, length: int, size: tuple[int, int], horizon: float, rng: np.random.Generator) -> _Camera:
        """Where the camera was: smooth turns and constant acceleration, and a jolt of its own for every frame."""
        height, width = size
        steps = -np.arange(length - 1, -1, -1.0)  # frames before the last
        speed, change = rng.uniform(0, self.forward), rng.uniform(-0.1, 0.1)
        turn = np.array([rng.laplace(0, self.pan), rng.normal(0, self.pan / 4)]) * width
        bend = rng.normal(0, 0.15, 2) * turn
        jolts = rng.normal(0, self.shake * width, (length, 2)) * (0.5, 1)  # pitch more than yaw, as cars do
        roll = np.radians(rng.normal(0, self.roll, length)) * 0.5 + np.radians(rng.normal(0, self.roll)) * steps
        return _Camera(
            back=speed * -steps * np.maximum(1 + change * steps, 0.5),
            shift=steps[:, None] * turn + 0.5 * steps[:, None] ** 2 * bend + jolts - jolts[-1],
            roll=roll - roll[-1],
            focus=np.array([width * rng.normal(0.5, 0.06), horizon + height * rng.normal(0, 0.02)]),
            centre=np.array([(width - 1) / 2, (height - 1) / 2]),
        )

    def _depth(self, labels: np.ndarray, horizon: float, camera: _Camera, rng: np.random.Generator) -> _Depth:
        """The background's inverse depth: ground and walls, whichever is nearer, and the sky at infinity."""
        height, width = labels.shape
        grid = _grid((height, width))
        rows, columns = grid[:, 0, 1], grid[0, :, 0]
        sampled = labels[np.clip(rows, 0, height - 1).astype(int)[:, None], np.clip(columns, 0, width - 1).astype(int)]
        ground = np.isin(sampled, self._ground) & (rows > horizon)[:, None]
        if ground.any():  # a wall stands where the ground of its column ends, columns without ground like others
            ends = np.where(ground.any(0), rows[ground.argmax(0)], np.nan)
            ends = np.interp(columns, columns[~np.isnan(ends)], ends[~np.isnan(ends)])
            walls = (cv2.medianBlur(ends.astype(np.float32)[None], 5)[0] - horizon) / width
        else:
            street = rng.uniform(1, 6, 2)  # from the camera to the left and the right wall
            offset = (columns - camera.focus[0]) / width
            walls = np.maximum(-offset / street[0], offset / street[1])
        inverse = np.maximum((rows[:, None] - horizon) / width, np.maximum(walls, 0.01)[None])
        bumps = rng.normal(0, 0.2, (5, 6)).astype(np.float32)
        inverse *= np.exp(cv2.resize(bumps, sampled.shape[::-1], interpolation=cv2.INTER_CUBIC))
        inverse[np.isin(sampled, self._sky)] = 0
        inverse = inverse.mean() * (1 - self.relief) + inverse * self.relief
        return _Depth.smooth_enough(inverse.astype(np.float32), camera, grid)

    def _things(
        self, still: np.ndarray, labels: np.ndarray, depth: _Depth, camera: _Camera, rng: np.random.Generator
    ) -> list[_Thing]:
        """Cards to cut out, the farthest first."""
        found = []  # (area, class, (x, y, width, height), mask)
        largest = _LARGEST if self.class_names else _LARGEST / 4
        for label in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[:IGNORED] >= _SMALLEST * labels.size):
            if self.class_names and label not in self._moving + self._standing:
                continue
            for box, mask in _regions(labels == label):
                area = int(mask.sum())
                if _SMALLEST * labels.size <= area <= largest * labels.size:
                    found.append((area, int(label), box, mask))
        found = sorted(found, key=lambda thing: -thing[0])[:_MOST_THINGS]

        things = []
        for _, label, (x, y, w, h), mask in found:
            behind = depth.at(np.array([[[x + w / 2, y + h / 2]]]))[0, 0]
            standing = (y + h - camera.focus[1]) / labels.shape[1]
            inverse = float(max(behind, behind * (1 - self.relief) + standing * self.relief))
            moves = rng.random() < self.objects and (label in self._moving or not self.class_names)
            velocity = rng.uniform(-1, 1, 2) * rng.uniform(0, self.speed) * moves * (0.25, 1)  # sideways, ahead
            views = camera.views_of(inverse, velocity, labels.shape[1])
            corners = np.array([[[x, y], [x + w, y], [x, y + h], [x + w, y + h]]], np.float64)
            seen = corners @ views[0][:, :2].T + views[0][:, 2]
            if np.abs(seen - camera.project(0, corners, depth.at(corners))).max() > _WORTH_CUTTING:
                things.append((inverse, _Thing.cut_out(still, mask, x, y, views)))
        return [thing for _, thing in sorted(things, key=lambda pair: pair[0])]

    # --- the camera's sensor ----------------------------------------------------------------------------------

    def _expose(self, frames: np.ndarray, rng: np.random.Generator) -> None:
        """Brightness that drifts towards the last frame's, and noise, in place."""
        levels = np.arange(256)
        drift = rng.normal(0, self.lighting, (len(frames), 1)) + rng.normal(0, self.lighting / 4, (len(frames), 3))
        sigma = rng.uniform(0, self.noise)
        noise = (_noise(frames[0].size) * sigma).astype(np.int16) if sigma else None
        gain = np.zeros(3)
        for t in reversed(range(len(frames))):
            if self.lighting and t < len(frames) - 1:
                gain += drift[t]
                table = np.clip(levels[:, None] * np.exp(gain) + 0.5, 0, 255).astype(np.uint8)
                cv2.LUT(frames[t], table[None], dst=frames[t])
            if noise is not None:
                start = int(rng.integers(len(noise) - frames[t].size))
                grain = noise[start : start + frames[t].size].reshape(frames[t].shape)
                cv2.add(frames[t], grain, dst=frames[t], dtype=cv2.CV_8U)


@dataclass(frozen=True)
class _Camera:
    """Poses of T frames relative to the last, whose own are all zero."""

    back: np.ndarray  # (T,) how far behind, camera heights
    shift: np.ndarray  # (T, 2) by which turning moves the picture, pixels
    roll: np.ndarray  # (T,) radians
    focus: np.ndarray  # (2,) focus of expansion in the last frame, pixels
    centre: np.ndarray  # (2,) of the frame, pixels

    def project(self, t: int, points: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """Where frame t shows points (h, w, 2) of the last frame, of inverse depth (h, w)."""
        rotation = self._rotation(t).astype(np.float32)
        offset = (self.centre + self.shift[t] + (self.focus - self.centre) @ rotation.T).astype(np.float32)
        nearer = (points - self.focus.astype(np.float32)) / (1 + np.float32(self.back[t]) * inverse)[..., None]
        return cv2.transform(nearer, np.column_stack([rotation, offset]))

    def views_of(self, inverse: float, velocity: np.ndarray, width: int) -> np.ndarray:
        """(T, 2, 3): the maps from the last frame to each of a card that moves at `velocity` (sideways, ahead)."""
        views = np.empty((len(self.back), 2, 3))
        for t in range(len(views)):
            ago = len(views) - 1 - t
            scale = 1 / max(1 + inverse * (self.back[t] - velocity[1] * ago), 0.5)
            rotation = self._rotation(t)
            sideways = np.array([velocity[0] * ago * width * inverse, 0])
            views[t, :, :2] = rotation * scale
            views[t, :, 2] = rotation @ (scale * (sideways - self.focus) + self.focus - self.centre)
            views[t, :, 2] += self.centre + self.shift[t]
        return views

    def _rotation(self, t: int) -> np.ndarray:
        cos, sin = np.cos(self.roll[t]), np.sin(self.roll[t])
        return np.array([[cos, -sin], [sin, cos]])

    def source(self, t: int, grid: np.ndarray, depth: _Depth, start: np.ndarray) -> np.ndarray:
        """The points (h, w, 2) of the last frame that frame t shows at `grid`: the inverse of `project`.

        Each step is exact for a wall that faces the camera; on the ground a few are needed, at folds all.
        """
        points = start
        upright = self._rotation(t).astype(np.float32).T
        for _ in range(_MOST_STEPS):
            inverse = depth.at(points)
            error = grid - self.project(t, points, inverse)
            if cv2.norm(error, cv2.NORM_INF) < _TOLERANCE:
                break
            points = points + cv2.transform(error, upright) * (1 + np.float32(self.back[t]) * inverse)[..., None]
        return points


@dataclass(frozen=True)
class _Depth:
    """Inverse depth of the background on the grid."""

    inverse: np.ndarray  # (h, w) float32

    def at(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) pixels to (...): interpolated, and beyond the border as at it."""
        return _on_grid(self.inverse, points)

    @classmethod
    def smooth_enough(cls, inverse: np.ndarray, camera: _Camera, grid: np.ndarray) -> _Depth:
        """Blurred until the oldest view neither folds the scene over nor tears it."""
        for sigma in (1.5, 2.5, 4, 6.5, 10):
            blurred = cv2.GaussianBlur(inverse, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
            seen = camera.project(0, grid, blurred)
            across = seen[:-1, 1:] - seen[:-1, :-1]
            down = seen[1:, :-1] - seen[:-1, :-1]
            area = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
            ground = _CELL**2 / (1 + camera.back[0] * blurred[:-1, :-1]) ** 3  # what a cell of a plane becomes
            if (area > _LEAST_AREA * ground).all():
                break
        return cls(blurred)


@dataclass(frozen=True)
class _Thing:
    """A card: a patch of the still with its outline, and where each frame sees it."""

    patch: np.ndarray  # (h, w, 3) uint8
    mask: np.ndarray  # (h, w) uint8, 1 on the thing
    alpha: np.ndarray  # (h, w) float32, the mask with soft edges
    origin: tuple[int, int]  # (x, y) of the patch in the still; may lie outside
    views: np.ndarray  # (T, 2, 3)

    @classmethod
    def cut_out(cls, still: np.ndarray, mask: np.ndarray, x: int, y: int, views: np.ndarray) -> _Thing:
        """The thing of `mask` (h, w) at (x, y); cut off by the border of the still, it goes on mirrored."""
        (height, width), (h, w) = still.shape[:2], mask.shape
        top, left = (h if y == 0 else 0), (w if x == 0 else 0)
        bottom, right = (h if y + h == height else 0), (w if x + w == width else 0)
        border = (max(top, 1), max(bottom, 1), max(left, 1), max(right, 1))
        patch = cv2.copyMakeBorder(still[y : y + h, x : x + w], *border, cv2.BORDER_REFLECT)
        mask = cv2.copyMakeBorder(mask, top, bottom, left, right, cv2.BORDER_REFLECT)
        clear = tuple(b - m for b, m in zip(border, (top, bottom, left, right), strict=True))
        mask = cv2.copyMakeBorder(mask, *clear, cv2.BORDER_CONSTANT, value=0)
        alpha = cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0.6)
        return cls(patch, mask, alpha, (x - border[2], y - border[0]), views)

    def move(self, flow: np.ndarray, surfaces: np.ndarray, number: int, t: int) -> None:
        """Write the thing's flow from frame t+1 to t where frame t+1 shows it."""
        box = self._box(t + 1, surfaces.shape)
        mine = surfaces[box] == number
        there = (_full(self.views[t]) @ np.linalg.inv(_full(self.views[t + 1])) - np.eye(3)).astype(np.float32)
        x = np.arange(box[1].start, box[1].stop, dtype=np.float32)
        y = np.arange(box[0].start, box[0].stop, dtype=np.float32)[:, None]
        for axis in (0, 1):
            motion = there[axis, 0] * x + there[axis, 1] * y + there[axis, 2]
            np.copyto(flow[box][..., axis], motion, where=mine)

    def paint(self, frame: np.ndarray, surfaces: np.ndarray, number: int, t: int) -> None:
        """Lay the thing over frame t as that sees it, in place."""
        box = self._box(t, surfaces.shape)
        size = (box[1].stop - box[1].start, box[0].stop - box[0].start)
        if min(size) <= 0:
            return
        view = self.views[t].copy()
        view[:, 2] += view[:, :2] @ self.origin - (box[1].start, box[0].start)
        alpha = cv2.warpAffine(self.alpha, view, size)
        patch = cv2.warpAffine(self.patch, view, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        frame[box] = cv2.blendLinear(patch, np.ascontiguousarray(frame[box]), alpha, 1 - alpha)
        surfaces[box][alpha > 0.5] = number

    def show_in_still(self, surfaces: np.ndarray, number: int) -> None:
        """Write `number` where the still itself shows the thing."""
        x, y = self.origin
        inside = self.mask[max(0, -y) :, max(0, -x) :][: len(surfaces) - max(0, y), : surfaces.shape[1] - max(0, x)]
        x, y = max(0, x), max(0, y)
        surfaces[y : y + inside.shape[0], x : x + inside.shape[1]][inside > 0] = number

    def _box(self, t: int, size: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of frame t that hold the patch."""
        h, w = self.mask.shape
        corners = np.array([[0, 0], [w, 0], [0, h], [w, h]]) + self.origin
        seen = corners @ self.views[t][:, :2].T + self.views[t][:, 2]
        (left, top), (right, bottom) = np.floor(seen.min(0)).astype(int), np.ceil(seen.max(0)).astype(int) + 1
        top, left = min(max(top, 0), size[0]), min(max(left, 0), size[1])
        return slice(top, max(top, min(bottom, size[0]))), slice(left, max(left, min(right, size[1])))


def _film(
    still: np.ndarray, depth: _Depth, camera: _Camera, things: list[_Thing]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3), the flow between them (T-1, H, W, 2), and where the older frame hides the point."""
    size, length = still.shape[:2], len(camera.back)
    frames = np.empty((length, *still.shape), np.uint8)
    flow = np.empty((length - 1, *size, 2), np.float32)
    hidden = np.empty((length - 1, *size), bool)
    surfaces = np.zeros(size, np.uint8)  # what a frame shows: 0 the background, else a thing, the nearest highest
    for number, thing in enumerate(things, 1):
        thing.show_in_still(surfaces, number)
    background = _fill(still, surfaces)
    frames[-1] = still
    pixels, grid = _pixels(size), _grid(size)
    sources = grid  # the points of the still that a frame shows at the grid
    for t in reversed(range(length - 1)):
        newer_surfaces, newer_sources = surfaces, sources
        steps = camera.project(t, newer_sources, depth.at(newer_sources)) - grid
        flow[t] = _upsample(steps, size)
        sources = camera.source(t, grid, depth, start=newer_sources - steps)
        _sample(background, _upsample(sources, size), frames[t])
        surfaces = np.zeros(size, np.uint8)
        for number, thing in enumerate(things, 1):
            thing.move(flow[t], newer_surfaces, number, t)
            thing.paint(frames[t], surfaces, number, t)
        ends = cv2.add(flow[t], pixels)
        shown = cv2.remap(surfaces, ends, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=255)
        hidden[t] = shown > newer_surfaces
        mismatch = _mismatch(steps, grid, sources, newer_sources)
        if mismatch.max() > _FOLDED:
            hidden[t] |= (_upsample(mismatch, size) > _FOLDED) & (newer_surfaces == 0)
    return frames, flow, hidden


def _sample(image: np.ndarray, points: np.ndarray, out: np.ndarray) -> None:
    """Write `image` at `points` (H, W, 2), bicubic: bilinear would leave every frame softer than the still.

    Beyond its border the image goes on mirrored. Points are rounded to 1/32 pixel, which halves the time.
    """
    maps = cv2.convertMaps(points, None, cv2.CV_16SC2)
    cv2.remap(image, *maps, cv2.INTER_CUBIC, dst=out, borderMode=cv2.BORDER_REFLECT)


def _mismatch(steps: np.ndarray, grid: np.ndarray, sources: np.ndarray, newer_sources: np.ndarray) -> np.ndarray:
    """(h, w): pixels of the still between what the newer frame shows at the grid and the older one a step on."""
    ends = grid + steps
    return np.abs(ends + _on_grid(sources - grid, ends) - newer_sources).max(-1)


def _regions(mask: np.ndarray) -> Iterator[tuple[tuple[int, int, int, int], np.ndarray]]:
    """The connected regions of (H, W) bool, found at half size: ((x, y, width, height), (height, width) uint8)."""
    mask = mask.view(np.uint8)
    half = np.ascontiguousarray(cv2.dilate(mask, np.ones((2, 2), np.uint8), anchor=(0, 0))[::2, ::2])
    count, regions, stats, _ = cv2.connectedComponentsWithStats(half)
    for region in range(1, count):
        x, y, w, h, area = stats[region].tolist()
        if area < _SMALLEST * half.size / 2:
            continue
        outline = (regions[y : y + h, x : x + w] == region).view(np.uint8)
        outline = cv2.resize(outline, (2 * w, 2 * h), interpolation=cv2.INTER_NEAREST)
        outline = outline[: len(mask) - 2 * y, : mask.shape[1] - 2 * x]
        outline = outline & mask[2 * y : 2 * (y + h), 2 * x : 2 * (x + w)]
        left, top, width, height = cv2.boundingRect(outline)
        yield (2 * x + left, 2 * y + top, width, height), outline[top : top + height, left : left + width]


def _fill(still: np.ndarray, surfaces: np.ndarray) -> np.ndarray:
    """The still without its things: behind each, its surroundings mirrored at its outline."""
    if not surfaces.any():
        return still
    behind = cv2.dilate((surfaces > 0).view(np.uint8), np.ones((5, 5), np.uint8))
    height, width = behind.shape
    small = cv2.resize(behind, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST)
    if small.all():
        return still
    _, nearest = cv2.distanceTransformWithLabels(small, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    y, x = np.nonzero(behind)
    seeds = np.flatnonzero(small == 0)  # in the order in which they are labelled
    seed = seeds[nearest[np.minimum(y // 2, small.shape[0] - 1), np.minimum(x // 2, small.shape[1] - 1)] - 1]
    seed_y, seed_x = 2 * (seed // small.shape[1]), 2 * (seed % small.shape[1])
    mirrored_y, mirrored_x = 2 * seed_y - y, 2 * seed_x - x
    outside = (mirrored_y < 0) | (mirrored_y >= height) | (mirrored_x < 0) | (mirrored_x >= width)
    mirrored_y, mirrored_x = np.where(outside, seed_y, mirrored_y), np.where(outside, seed_x, mirrored_x)
    again = behind[mirrored_y, mirrored_x] > 0  # narrow gaps between things
    filled = still.copy()
    filled[y, x] = still[np.where(again, seed_y, mirrored_y), np.where(again, seed_x, mirrored_x)]
    left, top, right, bottom = x.min(), y.min(), x.max() + 1, y.max() + 1
    area = filled[top:bottom, left:right]
    cv2.copyTo(cv2.blur(area, (5, 5)), behind[top:bottom, left:right], area)
    return filled


def _blurred_by_motion(frames: np.ndarray, flow: np.ndarray, shutter: float) -> np.ndarray:
    """The mean of each frame while the shutter is open, as its flow (the first one's: the next frame's) moves it."""
    if len(frames) == 1:
        return frames
    pixels = _pixels(frames.shape[1:3])
    blurred = np.empty_like(frames)
    for t, frame in enumerate(frames):
        streak = flow[max(t - 1, 0)] * np.float32(shutter / 2)
        early, late = (
            cv2.remap(frame, end, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
            for end in (pixels + streak, pixels - streak)
        )
        cv2.addWeighted(cv2.addWeighted(early, 0.5, late, 0.5, 0), 2 / 3, frame, 1 / 3, 0, dst=blurred[t])
    return blurred


# --- the grid -------------------------------------------------------------------------------------------------
# Cell i lies at pixel _FIRST + _CELL * i. With one cell beyond the frame on every side, enlarging by _CELL and
# cutting that margin off interpolates between cells everywhere and extrapolates nowhere.

_FIRST = np.float32((_CELL - 1) / 2 - _CELL)


def _upsample(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) or (h, w, 2) on the grid to every pixel: a view of `size`."""
    height, width = size
    large = cv2.resize(values, None, fx=_CELL, fy=_CELL, interpolation=cv2.INTER_LINEAR)
    return large[_CELL : _CELL + height, _CELL : _CELL + width]


def _on_grid(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(h, w) or (h, w, C) on the grid to (...) or (..., C) at points (..., 2): beyond the border as at it."""
    cells = (points.astype(np.float32, copy=False) - _FIRST) / _CELL
    return cv2.remap(values, cells, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=4)
def _grid(size: tuple[int, int]) -> np.ndarray:
    """(h, w, 2) float32: the (x, y) of the grid of a frame of `size`."""
    y, x = (_FIRST + _CELL * np.arange(-(-n // _CELL) + 2, dtype=np.float32) for n in size)
    return _read_only(np.dstack(np.meshgrid(x, y)))


@lru_cache(maxsize=4)
def _pixels(size: tuple[int, int]) -> np.ndarray:
    """(H, W, 2) float32: the (x, y) of every pixel."""
    y, x = (np.arange(n, dtype=np.float32) for n in size)
    return _read_only(np.dstack(np.meshgrid(x, y)))


@lru_cache(maxsize=2)
def _noise(size: int) -> np.ndarray:
    """Somewhat more than `size` normal deviates: drawing them anew for each frame would take longer than the frame."""
    return _read_only(np.random.default_rng(0).standard_normal(size + size // 4 + 2, dtype=np.float32))


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def _full(view: np.ndarray) -> np.ndarray:
    """(2, 3) to (3, 3)."""
    return np.vstack([view, (0, 0, 1)])
