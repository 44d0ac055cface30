"""Generated street scenes: a drive of thirty frames through a street, with exact labels and exact flow."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from accel.datasets.streetscape.objects import Kit, Light, Stand, SurfaceBuilder, pose
from accel.datasets.streetscape.renderer import (
    SKY,
    View,
    backward_flow,
    look,
    shadow_mask,
    texture_colours,
)

SPLITS = ("train", "val", "test")
FRAMES = 30  # of a snippet
SECONDS = 1 / 17  # between frames, as in Cityscapes
PIECE = 10.0  # metres of street a ground quad covers
STREET = (-10.0, 130.0)  # metres along the street that are built, the camera starting near 0
KERB = 0.14  # metres


@dataclass(frozen=True)
class Rendering:
    """The image of a frame, (H, W, 3) uint8 RGB, with its label_ids, (H, W) uint8, and instance_ids, (H, W) int32, as
    in Cityscapes."""

    image: np.ndarray
    label_ids: np.ndarray
    instance_ids: np.ndarray


class StreetScene:
    """One scene. It depends only on (seed, split, index). `size` (H, W) is just the camera's resolution.

    `render(frame)` and `flow(frame)` accept frames 0..29 in any order. Consecutive frames are faster.
    """

    def __init__(self, seed: int, split: str, index: int, size: tuple[int, int] = (256, 512)) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if min(size) < 64:
            raise ValueError(f"a street scene needs a size (H, W) of at least 64 x 64, got {tuple(size)}")
        self.seed, self.split, self.index = int(seed), split, int(index)
        self.size = int(size[0]), int(size[1])
        self._rng = np.random.default_rng([self.seed, SPLITS.index(split), self.index])
        street = _Street(self._rng)
        self._surfaces, self._pyramid, self._tops, self._alpha = street.builder.finish()
        self._poses = street.poses  # (30, B, 4, 4)
        self._shadows = street.builder.shadows
        self._fog, self._fog_distance, self._exposure = street.fog, street.fog_distance, street.exposure
        self._cameras = self._intrinsics(street.focal) @ np.linalg.inv(street.cameras)[:, :3]  # (30, 3, 4)
        self._views: dict[int, View] = {}
        noise = self._rng.standard_normal((3, self.size[0] + 32, self.size[1] + 32), np.float32)
        noise += 0.7 * noise.mean(axis=0)  # mostly of brightness, as a sensor's after its denoising
        self._noise = noise * self._rng.uniform(0.2, 0.9)

    def _intrinsics(self, focal: float) -> np.ndarray:
        height, width = self.size
        f = focal * max(width / 2, height)
        return np.array([[f, 0, (width - 1) / 2], [0, f, height * 0.47], [0, 0, 1]])

    def _view(self, frame: int) -> View:
        if not 0 <= frame < FRAMES:
            raise ValueError(f"frame must be in 0..{FRAMES - 1}, got {frame}")
        if frame not in self._views:
            while len(self._views) > 1:
                self._views.pop(next(iter(self._views)))
            view = look(self._surfaces, self._alpha, self._cameras[frame], self._poses[frame], self.size)
            self._views[frame] = view
        return self._views[frame]

    def render(self, frame: int) -> Rendering:
        """Return image and labels of one frame."""
        view, surfaces = self._view(frame), self._surfaces
        ids = view.ids.astype(np.intp)
        planes = texture_colours(surfaces, self._pyramid, self._tops, view)
        clear = view.inverse_depth / (view.inverse_depth + np.float32(1 / self._fog_distance))
        clear[view.ids == SKY] = 1
        light = clear * self._shade(frame, ids)
        x, y = np.random.default_rng([self.seed, SPLITS.index(self.split), self.index, frame]).integers(0, 32, 2)
        noise = self._noise[:, y : y + self.size[0], x : x + self.size[1]]
        exposure = self._exposure[frame]
        haze = 1 - clear
        tint = (surfaces.tint * exposure).astype(np.float32)
        blur = max(self.size[0] / 256, 0.5) * 0.5
        for c, plane in enumerate(planes):
            plane *= tint[:, c].take(ids)
            plane *= light
            plane += haze * np.float32(self._fog[c] * exposure)
            planes[c] = cv2.GaussianBlur(plane, (3, 3), blur, borderType=cv2.BORDER_REPLICATE)
            planes[c] += noise[c]
        image = cv2.merge([cv2.add(plane, 0, dtype=cv2.CV_8U) for plane in planes])
        return Rendering(image, surfaces.label.take(ids), surfaces.instance.take(ids))

    def _shade(self, frame: int, ids: np.ndarray) -> np.ndarray:
        outlines = np.array([(self._poses[frame, body] @ corners.T).T[:, :3] for body, corners in self._shadows])
        mask = shadow_mask(outlines, self._cameras[frame], self.size)
        mask = cv2.blur(mask, (3, 3))
        mask *= self._surfaces.ground.take(ids)
        return 1 - np.float32(0.5 / 255) * mask

    def flow(self, frame: int) -> np.ndarray:
        """Return the displacement (dx, dy) in pixels from each pixel centre of `frame` to its place in the frame
        before: (H, W, 2) float32.

        The place is that of the same surface point. It is NaN if the frame before does not show that point. A point
        counts as shown if the pixel nearest to it shows the same surface.
        """
        if not 1 <= frame < FRAMES:
            raise ValueError(f"frame must be in 1..{FRAMES - 1} (flow leads to the frame before), got {frame}")
        before = self._view(frame - 1)
        return backward_flow(self._surfaces, self._view(frame), before)


class _Street:
    """Lays out a street: its course, the objects along it, the traffic in it, and the camera's drive."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._lay_path()
        self.daylight = rng.uniform(0.7, 1.15)
        warm = np.array((1.08, 1.0, 0.9)) ** rng.uniform(-0.6, 1.5)
        sun = np.array((rng.normal(), -rng.uniform(0.4, 1.5), rng.normal()))
        direct = rng.uniform(0.25, 0.75)
        self.light = Light(
            sun / np.linalg.norm(sun),
            warm * direct * self.daylight,
            (1.2 - 0.6 * direct) * self.daylight / warm,
        )
        self.builder = SurfaceBuilder(self.light)
        self.kit = Kit(self.builder, rng)
        self.lanes = int(rng.choice((2, 2, 2, 3, 4)))
        self.parking = rng.random(2) < 0.6  # left, right
        self.half = self.lanes * rng.uniform(1.55, 1.8) + 2.0 * self.parking  # (2,) metres from middle to kerb
        self.walk = self.half + rng.uniform(2.2, 5.5, 2)
        self.front = self.walk + np.where(rng.random(2) < 0.5, rng.uniform(0.2, 1, 2), rng.uniform(2, 7, 2))
        self.lane = rng.uniform(1.5, 1.9)  # where we drive, right of the middle
        self.frames = np.arange(FRAMES)
        self._movers: list[np.ndarray] = []  # (30, 4, 4) each
        self._drive()
        self._sky()
        self._ground()
        self._sides()
        self._furniture()
        self._traffic()
        self._pedestrians()
        self.poses = np.stack([np.broadcast_to(np.eye(4), (FRAMES, 4, 4)), *self._movers], axis=1)

    def _lay_path(self) -> None:
        rng = self.rng
        self._s = np.arange(-40, 260, 0.5)
        bend = rng.normal(0, 1 / 350) + rng.normal(0, 1 / 350) * np.sin(self._s / rng.uniform(15, 40))
        self._heading = np.cumsum(bend) * 0.5
        self._heading -= np.interp(0, self._s, self._heading)
        self._x, self._z = np.cumsum(np.sin(self._heading)) * 0.5, np.cumsum(np.cos(self._heading)) * 0.5

    def at(self, s, d=0.0, heading=0.0, up=0.0) -> np.ndarray:
        """Return the pose `s` metres along the street, `d` to the right of its middle, turned by `heading`: (..., 4,
        4)."""
        s = np.asarray(s, float)
        along = np.interp(s, self._s, self._heading)
        x, z = np.interp(s, self._s, self._x), np.interp(s, self._s, self._z)
        return pose(x + d * np.cos(along), -up, z - d * np.sin(along), along + heading)

    def _points(self, s, d, up=0.0) -> np.ndarray:
        return self.at(s, d, 0.0, up)[..., :3, 3]

    def _drive(self) -> None:
        rng, t = self.rng, self.frames * SECONDS
        self.speed = rng.uniform(3.5, 10)
        self.focal = rng.uniform(0.8, 1.1)
        where = self.speed * t + 0.5 * rng.uniform(-1.5, 1.5) * t**2
        self.end = where[-1]

        def wave(size):
            rate = rng.uniform(1, 4)
            return size * rng.normal() * (np.sin(rate * t + rng.uniform(0, 6)) + 0.15 * rng.normal(0, 1, FRAMES))

        sway, yaw, pitch, roll, bob = wave(0.15), wave(0.015), wave(0.006), wave(0.006), wave(0.02)
        turn = rng.normal(0, 0.04) * t  # on the way into another lane, say
        poses = self.at(where, self.lane + sway, yaw + turn, rng.uniform(1.25, 1.6) + bob)
        tilt = np.broadcast_to(np.eye(4), poses.shape).copy()
        tilt[:, 1, 1] = tilt[:, 2, 2] = np.cos(pitch)
        tilt[:, 2, 1], tilt[:, 1, 2] = np.sin(pitch), -np.sin(pitch)
        spin = np.broadcast_to(np.eye(4), poses.shape).copy()
        spin[:, 0, 0] = spin[:, 1, 1] = np.cos(roll)
        spin[:, 1, 0], spin[:, 0, 1] = np.sin(roll), -np.sin(roll)
        self.cameras = poses @ tilt @ spin  # camera to world
        self.exposure = rng.uniform(0.95, 1.1) * (1 + rng.normal(0, 0.02) * np.sin(t * rng.uniform(1, 5)))

    def _sky(self) -> None:
        rng, texture = self.rng, self.builder.atlas.add(self.kit.paint.sky())
        tint = 0.35 + 0.65 * self.daylight
        corners = ((-3, -1.8, 1), (3, -1.8, 1), (3, 0.2, 1), (-3, 0.2, 1))
        self.builder.quad(Stand(np.eye(4)), corners, texture, "sky", tint=tint, at_infinity=True, lit=False)
        self.fog = np.array((200, 208, 216)) * tint * rng.uniform(0.8, 1.0)
        self.fog_distance = np.exp(rng.uniform(np.log(120), np.log(1200)))
        if rng.random() < 0.5:  # our own bonnet; it moves with the camera
            texture = self.builder.atlas.add(self.kit.paint.plain(64, 192, self.kit.paint.material(), 0.1, 0.02))
            low, high = rng.uniform(0.9, 1.0), rng.uniform(0.5, 0.8)
            corners = ((-1.0, low * 0.93, 1.9), (1.0, low * 0.93, 1.9), (2.5, 2.5, high), (-2.5, 2.5, high))
            corners = np.array(corners) * (1, 0.95 / self.focal * 0.95, 1)
            self._move(self.cameras)
            stand = Stand(self.cameras[0], len(self._movers))
            self.builder.quad(stand, corners, texture, "ego vehicle", tint=self.daylight, lit=False)

    def _move(self, poses: np.ndarray) -> Stand:
        """Add a moving body with its poses (30, 4, 4)."""
        self._movers.append(poses)
        return Stand(poses[0], len(self._movers))

    def _ground(self) -> None:
        rng, kit, add = self.rng, self.kit, self.builder.atlas.add
        paint = kit.paint
        marked = rng.random() < 0.8
        roads = [add(paint.road(self.lanes, marked, False)) for _ in range(2)]
        crossing = add(paint.road(self.lanes, False, True))
        paving, grass = [add(paint.paving()) for _ in range(2)], [add(paint.grass()) for _ in range(2)]
        stone = add(paint.plain(16, 128, paint.rng.uniform(0.9, 1.2) * np.array((150, 148, 145)), 0.1, 0.08))
        self.zebra = float(rng.choice((10, 20, 30, 40, 50)))
        edges = np.arange(STREET[0], STREET[1], PIECE)
        outer = "terrain" if rng.random() < 0.6 else "sidewalk"
        for s in edges:
            near, far = s, s + PIECE

            def strip(left, right, texture, label, patch, up=0.0, near=near, far=far):
                corners = [self._points(*p, up) for p in ((far, left), (far, right), (near, right), (near, left))]
                self.builder.quad(Stand(np.eye(4)), corners, texture, label, facing=1, patch=patch)

            road = crossing if s == self.zebra else roads[rng.integers(2)]
            strip(-self.half[0], self.half[1], road, "road", 0)
            for side, sign in ((0, -1), (1, 1)):
                a, b = sign * self.half[side], sign * self.walk[side]
                strip(min(a, b), max(a, b), paving[side], "sidewalk", 1 + side, KERB)
                c, texture = sign * 60, grass[side] if outer == "terrain" else paving[1 - side]
                strip(min(b, c), max(b, c), texture, outer, 3 + side, KERB)
                if s < 60:
                    corners = [self._points(*p) for p in ((near, a, KERB), (far, a, KERB), (far, a), (near, a))]
                    self.builder.quad(Stand(np.eye(4)), corners, stone, "sidewalk", facing=-sign, patch=5 + side)
        if rng.random() < 0.5:  # the houses' shadow
            side = int(self.light.sun[0] > 0)
            sign, reach = (-1, 1)[side], rng.uniform(0.2, 1.6)
            for s in edges:
                to = sign * self.walk[side] * (1 - reach)
                corners = [self._points(*p) for p in ((s, sign * 30), (s, to), (s + PIECE, to), (s + PIECE, sign * 30))]
                self.builder.shadows.append((0, np.concatenate([corners, np.ones((4, 1))], axis=1)))

    def _sides(self) -> None:
        """Build houses, with walls, fences, hedges and trees between them, and objects that close the view at the
        end."""
        rng, build, kit, add = self.rng, self.builder, self.kit, self.builder.atlas.add
        paint = kit.paint
        sizes = [(int(rng.integers(3, 7)), int(rng.integers(2, 7))) for _ in range(5)]
        facades = [add(paint.facade(*size)) for size in sizes]
        bare = [add(paint.wall()), add(paint.plain(128, 128, (170, 165, 160), 0.1, 0.05))]
        fence, wall = add(*paint.fence()), add(paint.wall())
        built = rng.uniform(0.2, 0.9)
        for side, sign in ((0, -1), (1, 1)):
            s = STREET[0] + rng.uniform(0, 5)
            while s < STREET[1] - 10:
                if rng.random() < built:
                    n = rng.integers(len(sizes))
                    bays, floors = sizes[n]
                    length, height = bays * rng.uniform(2.6, 3.6), floors * rng.uniform(2.8, 3.4) + 0.8
                    at = self.front[side] + rng.choice((0, rng.uniform(0, 2.5)))
                    tint = 0.6 + paint.material() / 350
                    self._house(s, s + length, sign * at, sign * (at + 12), height, facades[n], bare, tint)
                    if at - self.walk[side] > 2 and rng.random() < 0.6:
                        self._barrier(s, s + length, sign * (self.walk[side] + 0.3), fence, wall)
                else:
                    length = rng.uniform(6, 18)
                    self._barrier(s, s + length, sign * self.front[side], fence, wall)
                    for _ in range(rng.integers(2, 6)):
                        kit.tree(
                            Stand(self.at(s + rng.uniform(0, length), sign * (self.front[side] + rng.uniform(2, 12))))
                        )
                s += length + rng.choice((0, 0, rng.uniform(0.5, 6)))
        lines = [(add(*paint.treeline()), "vegetation"), (add(*paint.skyline()), "building")]
        for k in range(6):
            texture, label = lines[rng.integers(2)]
            stand = Stand(self.at(STREET[1] + 4 + 3 * k, (k - 2.5) * 40))
            build.upright(stand, 60, rng.uniform(7, 22), texture, label, tint=rng.uniform(0.7, 1.0))

    def _house(self, near, far, front, back, height, facade, bare, tint) -> None:
        low, high = KERB - 0.05, height
        a, b = self._points(near, front), self._points(far, front)
        away = (b - a)[[2, 1, 0]] * (1, 0, -1) / np.linalg.norm(b - a) * (back - front)

        def face(p, q, texture, facing, tint):
            corners = [p - (0, high, 0), q - (0, high, 0), q - (0, low, 0), p - (0, low, 0)]
            self.builder.quad(Stand(np.eye(4)), corners, texture, "building", facing=facing, tint=tint)

        facing = 1 if front > 0 else -1
        face(b, a, facade, facing, tint)
        side = bare[self.rng.integers(2)]
        face(a, a + away, side, facing, tint)
        face(b, b + away, side, -facing, tint)

    def _barrier(self, near, far, d, fence, wall) -> None:
        rng, kind = self.rng, self.rng.integers(4)
        if kind == 3:
            middle = (near + far) / 2
            size = rng.uniform(0.6, 1.2), rng.uniform(0.8, 2.2), far - near
            self.kit.bush(Stand(self.at(middle, d + np.sign(d) * 0.6)), size)
            return
        if kind == 2:
            return
        texture, label, height = (
            (fence, "fence", rng.uniform(0.9, 1.8)),
            (wall, "wall", rng.uniform(0.8, 2.4)),
        )[kind]
        pieces = max(1, round((far - near) / 5))
        ends = np.linspace(near, far, pieces + 1)
        tint = rng.uniform(0.75, 1.1, 3)
        for p, q in pairwise(ends):
            a, b = self._points(p, d), self._points(q, d)
            corners = [a - (0, height, 0), b - (0, height, 0), b, a]
            self.builder.quad(Stand(np.eye(4)), corners, texture, label, tint=tint)

    def _furniture(self) -> None:
        rng, kit = self.rng, self.kit
        for side, sign in ((0, -1), (1, 1)):
            edge, walk = self.half[side] + 0.5, self.walk[side]
            for s in np.arange(rng.uniform(2, 12), STREET[1], rng.uniform(18, 32)):
                kit.lamp(Stand(self.at(s, sign * edge)), -sign * rng.uniform(0.8, 2.2))
            if rng.random() < 0.5:  # an avenue
                for s in np.arange(rng.uniform(3, 10), STREET[1], rng.uniform(9, 22)):
                    kit.tree(Stand(self.at(s + rng.uniform(-1, 1), sign * (edge + 0.3), rng.uniform(-0.7, 0.7))))
            for s in rng.uniform(5, 80, rng.integers(2, 7)):
                kit.sign(Stand(self.at(s, sign * (edge + rng.uniform(0, 0.6)), rng.uniform(-0.3, 0.3))))
            for s in rng.uniform(5, 60, rng.integers(0, 3)):
                kit.bin(Stand(self.at(s, sign * (walk - 0.5), rng.uniform(-0.4, 0.4))))
            for s in rng.uniform(5, 60, rng.integers(0, 3)):
                kit.cyclist(Stand(self.at(s, sign * (walk - 0.4), rng.uniform(-0.6, 0.6))), ridden=False)
            if rng.random() < 0.6:
                for s in (self.zebra, self.zebra + 25):
                    kit.traffic_light(Stand(self.at(s - 0.5, sign * (edge - 0.1))))

    def _traffic(self) -> None:
        rng, kit = self.rng, self.kit
        t = self.frames * SECONDS
        lane = self.lane

        def vehicle(stand, large=0.12):
            if rng.random() < large:
                kit.large_vehicle(stand, ("truck", "bus")[rng.integers(2)])
            else:
                kit.car(stand)

        for side, sign in ((0, -1), (1, 1)):  # parked
            s = rng.uniform(-4, 8)
            while self.parking[side] and s < 75:
                if rng.random() < 0.7:
                    heading = 0 if sign > 0 else np.pi
                    kit.car(Stand(self.at(s, sign * (self.half[side] - 1.05), heading + rng.normal(0, 0.03))))
                s += rng.uniform(5.2, 8)
        s = rng.uniform(8, 40)
        while s < 130:  # coming towards us
            speed = rng.uniform(5, 14)
            vehicle(self._move(self.at(s - speed * t, -lane, np.pi + rng.normal(0, 0.02))))
            s += rng.uniform(9, 45)
        if rng.random() < 0.7:  # ahead of us
            s, speed = max(rng.uniform(9, 30), 0), self.speed + rng.uniform(-2, 3)
            s = max(s, 9 + self.end - speed * t[-1])
            vehicle(self._move(self.at(s + speed * t, lane + rng.normal(0, 0.1) + 0.2 * t * rng.normal())))
        if self.lanes > 2:  # in the lane beside us
            s, speed = rng.uniform(4, 30), self.speed + rng.uniform(-4, 4)
            vehicle(self._move(self.at(s + speed * t, lane + 3.2)))
        if rng.random() < 0.35:  # crossing
            s, speed = self.end + rng.uniform(9, 30), rng.uniform(4, 10) * rng.choice((-1, 1))
            d = speed * (t - rng.uniform(0, 1.7)) + rng.uniform(-8, 8)
            vehicle(self._move(self.at(np.full(FRAMES, s), d, np.sign(speed) * np.pi / 2)))
        for _ in range(rng.integers(1, 6)):  # bicycles along the kerb
            side = rng.integers(2)
            sign, speed = (-1, 1)[side], rng.uniform(3, 6)
            s = rng.uniform(6, 32) + (0 if side else 8)
            d = sign * (self.half[side] - (2.6 if self.parking[side] else 0.7))
            kit.cyclist(self._move(self.at(s + sign * speed * t, d, 0 if sign > 0 else np.pi)))
        if rng.random() < 0.35:
            s, speed = self.end + rng.uniform(4, 15), rng.uniform(2, 4) * rng.choice((-1, 1))
            d = speed * (t - rng.uniform(0, 1.7)) + rng.uniform(-3, 3)
            kit.cyclist(self._move(self.at(np.full(FRAMES, s), d, np.sign(speed) * np.pi / 2)))

    def _pedestrians(self) -> None:
        rng, kit, t = self.rng, self.kit, self.frames * SECONDS
        for _ in range(rng.integers(8, 26)):  # on the sidewalks
            side = rng.integers(2)
            sign = (-1, 1)[side]
            d = sign * rng.uniform(self.half[side] + 0.4, self.walk[side] - 0.2)
            speed = rng.uniform(0.8, 1.8) * rng.choice((-1, 0, 1))
            poses = self.at(rng.uniform(4, 36) + speed * t, d, rng.normal(0, 0.3), KERB)
            kit.person(self._move(poses), across=False)
        for _ in range(rng.integers(2, 8)):  # across the road
            speed = rng.uniform(0.9, 2.2) * rng.choice((-1, 1))
            s = self.end + rng.uniform(2, 12)
            d = rng.uniform(-self.half[0], self.half[1]) + speed * t
            kit.person(
                self._move(self.at(np.full(FRAMES, s), d, np.sign(speed) * np.pi / 2 + rng.normal(0, 0.2))),
                True,
            )
