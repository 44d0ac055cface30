"""The objects of a street, built from textured quads.

Coordinates are metres: X right, Y down (so up is negative), Z forward. In their own coordinates, objects stand on Y =
0, look along Z and are centred on X = Z = 0.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from cityscapesscripts.helpers.labels import name2label

from accel.datasets.streetscape.renderer import Surfaces
from accel.datasets.streetscape.textures import Atlas, Painter


def pose(x=0.0, y=0.0, z=0.0, heading=0.0) -> np.ndarray:
    """Return a rigid motion (..., 4, 4): turn to `heading` radians (0 looks along Z, positive turns right), then
    move."""
    x, y, z, heading = np.broadcast_arrays(x, y, z, heading)
    matrix = np.zeros((*x.shape, 4, 4))
    matrix[..., 0, 0] = matrix[..., 2, 2] = np.cos(heading)
    matrix[..., 0, 2], matrix[..., 2, 0] = np.sin(heading), -np.sin(heading)
    matrix[..., 1, 1] = matrix[..., 3, 3] = 1
    matrix[..., :3, 3] = np.stack([x, y, z], axis=-1)
    return matrix


@dataclass(frozen=True)
class Stand:
    """The position of an object on a body. `place` (4, 4) takes its coordinates to the world at frame 0.

    Body 0 is the world itself. The surfaces of other bodies keep the object's own coordinates.
    """

    place: np.ndarray
    body: int = 0


@dataclass(frozen=True)
class Light:
    """Sunlight: `sun` (3,) is the unit vector towards the sun; `direct` and `ambient` are the RGB factors of the sun
    and of the shade."""

    sun: np.ndarray
    direct: np.ndarray
    ambient: np.ndarray


class SurfaceBuilder:
    """Collects quads, and packs them with their textures at the end."""

    def __init__(self, light: Light) -> None:
        self.light = light
        self.atlas = Atlas()
        self.shadows: list[tuple[int, np.ndarray]] = []  # body, (4, 4) homogeneous corners on the ground
        self._rows: list[tuple] = []
        self._instances: Counter[str] = Counter()

    def instance(self, label: str) -> int:
        """Return a new Cityscapes instance number: id * 1000 + k."""
        number = name2label[label].id * 1000 + self._instances[label]
        self._instances[label] += 1
        return number

    def quad(
        self,
        stand: Stand,
        corners,
        texture: int,
        label: str,
        instance: int | None = None,
        facing: int = 0,
        tint=1.0,
        patch: int | None = None,
        at_infinity: bool = False,
        lit: bool = True,
    ) -> None:
        """Add a quad.

        corners: (4, 3) in object coordinates: the texture's top left, top right, bottom right, bottom left.
        instance: the instance number. None: the class has no instances.

        See `Surfaces` for the rest.
        """
        points = np.asarray(corners, float)
        homogeneous = np.concatenate([points, np.full((4, 1), 0.0 if at_infinity else 1.0)], axis=1)
        world = homogeneous @ stand.place.T
        tint = np.broadcast_to(tint, 3)
        own = homogeneous if stand.body else world
        number = name2label[label].id
        if instance is None:
            instance = number
        row = (own, world, texture, label, instance, stand.body, facing, patch, tint, lit, number)
        self._rows.append(row)

    def shadow(self, stand: Stand, width: float, length: float) -> None:
        """Darken the ground under an object."""
        x, z = width / 2 + 0.1, length / 2 + 0.1
        corners = np.array([(-x, 0, z, 1), (x, 0, z, 1), (x, 0, -z, 1), (-x, 0, -z, 1)], float)
        self.shadows.append((stand.body, corners if stand.body else corners @ stand.place.T))

    def box(self, stand: Stand, size, textures, label: str, instance=None, bottom=0.0, tint=1.0) -> None:
        """Add an upright box of size (width, height, length). textures: those of its back, front, sides and top."""
        w, h, z = size[0] / 2, -bottom - size[1], size[2] / 2
        b = -bottom
        back, front, side, top = textures
        faces = (
            (((-w, h, -z), (w, h, -z), (w, b, -z), (-w, b, -z)), back, 1),
            (((w, h, z), (-w, h, z), (-w, b, z), (w, b, z)), front, 1),
            (((w, h, -z), (w, h, z), (w, b, z), (w, b, -z)), side, 1),
            (((-w, h, -z), (-w, h, z), (-w, b, z), (-w, b, -z)), side, -1),
            (((-w, h, z), (w, h, z), (w, h, -z), (-w, h, -z)), top, 1),
        )
        for corners, texture, facing in faces:
            if texture is not None:
                self.quad(stand, corners, texture, label, instance, facing, tint)

    def upright(self, stand: Stand, width, height, texture, label, instance=None, bottom=0.0, shift=0.0, tint=1.0):
        """Add an upright card across the object's Z axis, visible from both sides."""
        x, b, t = width / 2, -bottom, -bottom - height
        corners = ((-x, t, shift), (x, t, shift), (x, b, shift), (-x, b, shift))
        self.quad(stand, corners, texture, label, instance, 0, tint)

    def along(self, stand: Stand, length, height, texture, label, instance=None, bottom=0.0, shift=0.0, tint=1.0):
        """Add an upright card along the object's Z axis, visible from both sides. The right end of its texture is
        forward."""
        z, b, t = length / 2, -bottom, -bottom - height
        corners = ((shift, t, -z), (shift, t, z), (shift, b, z), (shift, b, -z))
        self.quad(stand, corners, texture, label, instance, 0, tint)

    def finish(self) -> tuple[Surfaces, np.ndarray, np.ndarray, list[np.ndarray]]:
        """Return the surfaces, and the atlas for the renderer: colours, first rows, opacities."""
        rects, pyramid, tops, alpha = self.atlas.pack()
        columns = zip(*self._rows, strict=True)
        own, world, texture, label, instance, body, facing, patch, tint, lit, number = columns
        corners, rect, facings = np.array(own), rects[list(texture)], np.array(facing)
        light = np.where(np.array(lit)[:, None], self._light_on(np.array(world), facings), 1)
        surfaces = Surfaces(
            corners=corners,
            plane=_planes(corners, rect),
            body=np.array(body),
            facing=facings,
            rect=rect,
            cutout=np.array([self.atlas.is_cutout(t) for t in texture]),
            patch=np.array([len(own) + p if p is not None else i for i, p in enumerate(patch)]),
            ground=np.array([name in ("road", "sidewalk", "terrain") for name in label]),
            tint=np.array(tint) * light,
            label=np.array(number, np.uint8),
            instance=np.array(instance, np.int32),
        )
        return surfaces, pyramid, tops, alpha

    def _light_on(self, corners: np.ndarray, facing: np.ndarray) -> np.ndarray:
        """Return the light (N, 3) on quads with world corners (N, 4, 4). Cards that are visible from both sides scatter
        it."""
        down, right = corners[:, 3, :3] - corners[:, 0, :3], corners[:, 1, :3] - corners[:, 0, :3]
        normal = np.cross(down, right)  # towards the viewer
        cosine = normal @ self.light.sun / np.maximum(np.linalg.norm(normal, axis=1), 1e-9)
        strength = np.where(facing == 0, 0.5 * np.abs(cosine) + 0.2, np.maximum(cosine * facing, 0))
        return self.light.ambient + self.light.direct * strength[:, None]


def _planes(corners: np.ndarray, rect: np.ndarray) -> np.ndarray:
    """Return projective maps (N, 4, 3) from the texels of each rectangle to the quad with those corners."""
    a, b, c, d = corners.transpose(1, 0, 2)  # (N, 4) each, coplanar
    # the weights for which  wa a + wc c = wb b + wd d;  wc = 1
    weights = np.linalg.pinv(np.stack([-a, b, d], axis=-1)) @ c[..., None]  # (N, 3, 1)
    a, b, d = a * weights[:, 0], b * weights[:, 1], d * weights[:, 2]
    unit = np.stack([b - a, d - a, a], axis=-1)  # (N, 4, 3) from (u, v, 1)
    texels = np.zeros((len(rect), 3, 3))
    texels[:, 0, 0], texels[:, 1, 1], texels[:, 2, 2] = 1 / rect[:, 2], 1 / rect[:, 3], 1
    texels[:, :2, 2] = (0.5 - rect[:, :2]) / rect[:, 2:]  # texel centres have whole coordinates
    return unit @ texels


class Kit:
    """The objects of one scene. It paints a few textures of each kind and builds objects from them."""

    def __init__(self, builder: SurfaceBuilder, rng: np.random.Generator) -> None:
        self.builder, self.rng = builder, rng
        self.paint = paint = Painter(rng)
        add = builder.atlas.add
        self.crowns = [add(*paint.crown()) for _ in range(3)]
        self.bark = add(paint.plain(64, 24, (95, 80, 65), 0.2, 0.2))
        self.hedge = add(paint.leaves(64, 128))
        self.metal = [add(paint.plain(96, 16, paint.material() * 0.8, 0.08, 0.05)) for _ in range(2)]
        self.signs = [add(*paint.sign()) for _ in range(4)]
        self.lights = [add(paint.traffic_light()) for _ in range(2)]
        self.people = [add(*paint.person()) for _ in range(6)]
        self.riders = [add(*paint.person(riding=True)) for _ in range(2)]
        self.bicycles = [add(*paint.bicycle()) for _ in range(2)]
        self.rear, self.face = add(paint.vehicle_end(True)), add(paint.vehicle_end(False))
        self.glass = [add(paint.glass()) for _ in range(2)]
        self.body_paint = add(paint.plain(48, 48, (225, 225, 225), 0.03, 0.02))
        self.cars = [self._car_model() for _ in range(3)]
        lorry = ((0, 0.12), (0, 1), (0.76, 1), (0.76, 0.8), (0.97, 0.74), (1, 0.4), (1, 0.12))
        cab = ((0.8, 0.44), (0.8, 0.7), (0.93, 0.67), (0.96, 0.44))
        coach = ((0, 0.1), (0, 0.97), (0.02, 1), (0.98, 1), (1, 0.95), (1, 0.1))
        panes = ((0.04, 0.45), (0.04, 0.82), (0.96, 0.82), (0.98, 0.45))
        wheels = ((0.16, 0.13), (0.84, 0.13))
        self.lorry_side = add(*paint.vehicle_side(np.array(lorry), np.array(cab), wheels))
        self.coach_side = add(*paint.vehicle_side(np.array(coach), np.array(panes), wheels))
        self.shutter = add(paint.wall())

    def _pick(self, choices):
        return choices[self.rng.integers(len(choices))]

    def _car_model(self):
        rng = self.rng
        roof, rear = sorted(rng.uniform(0.35, 0.75, 2))[::-1], rng.uniform(0.02, 0.2)
        if rng.random() < 0.4:
            rear = 0.01
        belt, rise = rng.uniform(0.52, 0.62), rng.uniform(0.03, 0.12)
        profile = np.array(
            (
                (0, 0.18),
                (0, belt),
                (rear + 0.004, belt + 0.02),
                (rear + rise, 1),
                (max(roof[0] - 0.1, 0.45), 1),
                (max(roof[0] - 0.1, 0.45) + 0.16, belt + 0.02),
                (0.97, belt - 0.12),
                (1, 0.18),
            )
        )
        p = profile
        window = np.array((p[2] + (0.06, 0.03), p[3] + (0.04, -0.07), p[4] + (-0.01, -0.07), p[5] + (-0.05, 0.03)))
        texture = self.paint.vehicle_side(profile, window, ((0.19, 0.21), (0.81, 0.21)))
        return profile, self.builder.atlas.add(*texture)

    def car(self, stand: Stand) -> None:
        build, rng = self.builder, self.rng
        profile, side = self._pick(self.cars)
        w, h, length = rng.uniform(1.65, 1.9), rng.uniform(1.38, 1.75), rng.uniform(3.7, 4.8)
        tint, number = self.paint.material() / 225, build.instance("car")
        points = np.stack([-profile[:, 1] * h, (profile[:, 0] - 0.5) * length], axis=1)  # Y, Z
        glass = self._pick(self.glass)
        skins = (self.rear, self.body_paint, glass, self.body_paint, glass, self.body_paint, self.face)
        for i, skin in enumerate(skins):
            (ya, za), (yb, zb) = points[i], points[i + 1]
            x = w / 2
            corners = [(-x, yb, zb), (x, yb, zb), (x, ya, za), (-x, ya, za)]
            if i >= 4:  # past the roof the way leads down: turn the texture upright
                corners = corners[2:] + corners[:2]
            build.quad(stand, corners, skin, "car", number, 1, 1.0 if skin == glass else tint)
        self._sides(stand, (w, h, length), side, "car", number, tint)
        build.shadow(stand, w, length)

    def _sides(self, stand, size, texture, label, number, tint):
        x, h, z = size[0] / 2, -size[1], size[2] / 2
        for side in (1, -1):
            corners = ((side * x, h, -z), (side * x, h, z), (side * x, 0, z), (side * x, 0, -z))
            self.builder.quad(stand, corners, texture, label, number, side, tint)

    def large_vehicle(self, stand: Stand, label: str) -> None:
        """Build a truck or a bus."""
        build, rng = self.builder, self.rng
        truck = label == "truck"
        size = (2.4, rng.uniform(2.6, 3.6), rng.uniform(6, 8.5) if truck else rng.uniform(9, 12))
        tint, number = self.paint.material() / 225, build.instance(label)
        w, h, length = size
        low = Stand(stand.place, stand.body)
        glass = self._pick(self.glass)
        backs = (self.shutter if truck else glass, None, None, self.body_paint)
        build.box(low, (w, h * 0.5, length), backs, label, number, h * 0.5, tint if truck else 1.0)
        build.box(low, (w, h * 0.4, length), (self.rear, None, None, None), label, number, h * 0.1, tint)
        build.box(low, (w, h * 0.36, length), (None, glass, None, None), label, number, h * 0.44, 1.0)
        build.box(low, (w, h * 0.34, length), (None, self.face, None, None), label, number, h * 0.1, tint)
        build.box(low, (w, h * 0.2, length), (None, self.body_paint, None, None), label, number, h * 0.8, tint)
        self._sides(stand, size, self.lorry_side if truck else self.coach_side, label, number, tint)
        build.shadow(stand, w, length)

    def person(self, stand: Stand, across: bool) -> None:
        """Build a pedestrian, seen from the front (`across` false) or from the side."""
        height = self.rng.uniform(1.5, 1.95)
        width = height * 0.45 * (0.85 if across else 1.0)
        texture, number = self._pick(self.people), self.builder.instance("person")
        tint = self.rng.uniform(0.75, 1.15, 3)
        card = self.builder.along if across else self.builder.upright
        card(stand, width, height, texture, "person", number, tint=tint)
        self.builder.shadow(stand, 0.35, 0.35)

    def cyclist(self, stand: Stand, ridden: bool = True) -> None:
        """Build a bicycle, with its rider or parked."""
        build = self.builder
        bicycle = build.instance("bicycle")
        build.along(stand, 1.75, 1.07, self._pick(self.bicycles), "bicycle", bicycle)
        build.upright(stand, 0.12, 0.95, self.metal[0], "bicycle", bicycle)
        if ridden:
            number, tint = build.instance("rider"), self.rng.uniform(0.75, 1.15, 3)
            build.along(stand, 0.78, 1.6, self._pick(self.riders), "rider", number, 0.3, 0.03, tint)
            build.upright(stand, 0.62, 1.25, self._pick(self.people), "rider", number, 0.5, -0.1, tint)
        build.shadow(stand, 0.4, 1.6)

    def tree(self, stand: Stand) -> None:
        build, rng = self.builder, self.rng
        height, spread = rng.uniform(4.5, 8.5), rng.uniform(3, 5.5)
        crown, trunk = self._pick(self.crowns), rng.uniform(0.18, 0.4)
        base = height - spread * 0.9
        for card in (build.upright, build.along):
            card(stand, trunk, base + spread * 0.3, self.bark, "vegetation", shift=0.01)
            card(stand, spread, spread, crown, "vegetation", bottom=base, tint=rng.uniform(0.8, 1.1))
        build.shadow(stand, spread * 0.6, spread * 0.6)

    def bush(self, stand: Stand, size) -> None:
        self.builder.box(stand, size, (self.hedge,) * 4, "vegetation", tint=self.rng.uniform(0.75, 1.1, 3))

    def lamp(self, stand: Stand, arm: float) -> None:
        build, metal, height = self.builder, self._pick(self.metal), self.rng.uniform(5, 8)
        build.box(stand, (0.16, height, 0.16), (metal,) * 4, "pole")
        a, b = (0, arm) if arm > 0 else (arm, 0)
        t = -height
        build.quad(stand, ((a, t - 0.1, 0), (b, t - 0.1, 0), (b, t + 0.06, 0), (a, t + 0.06, 0)), metal, "pole")

    def sign(self, stand: Stand) -> None:
        build, height, size = self.builder, self.rng.uniform(2.1, 3), self.rng.uniform(0.6, 0.95)
        build.box(stand, (0.09, height + size * 0.8, 0.09), (self.metal[0],) * 4, "pole")
        build.upright(stand, size, size, self._pick(self.signs), "traffic sign", bottom=height, shift=-0.08)

    def traffic_light(self, stand: Stand) -> None:
        build = self.builder
        build.box(stand, (0.14, 3.4, 0.14), (self.metal[1],) * 4, "pole")
        faces = (self._pick(self.lights), self.metal[1], self.metal[1], self.metal[1])
        build.box(stand, (0.42, 1.1, 0.34), faces, "traffic light", bottom=2.5)

    def bin(self, stand: Stand) -> None:
        size = self.rng.uniform((0.5, 0.8, 0.5), (1.2, 1.3, 1.0))
        self.builder.box(stand, size, (self.shutter,) * 4, "static", tint=self.paint.material() / 180)
        self.builder.shadow(stand, size[0], size[2])
