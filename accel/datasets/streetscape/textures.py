"""Painted textures of a street, and the atlas that holds them."""

from __future__ import annotations

import cv2
import numpy as np

LEVELS = 5  # of the pyramid: full size to 1/16
ATLAS_WIDTH = 1024
MARGIN = 8  # texels around each texture that repeat its border, for the smaller levels


class Atlas:
    """Textures side by side in one image, with smaller versions of the whole image for distant surfaces."""

    def __init__(self) -> None:
        self._images: list[tuple[np.ndarray, np.ndarray | None]] = []

    def add(self, colour: np.ndarray, alpha: np.ndarray | None = None) -> int:
        """Add an (h, w, 3) uint8 image, opaque where `alpha` (h, w) uint8 exceeds 127. Return its number."""
        self._images.append((colour, alpha))
        return len(self._images) - 1

    def is_cutout(self, number: int) -> bool:
        return self._images[number][1] is not None

    def pack(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
        """Return four arrays: the textures' rectangles, (M, 4), as x, y, width, height; all levels of the colours, one
        below the other, uint8; the row in which each level begins; the opacity of each level, (h, w) uint8."""
        rects = np.zeros((len(self._images), 4), int)
        x = y = row_height = 0
        step = 2 ** (LEVELS - 1)
        for i in sorted(range(len(self._images)), key=lambda i: -self._images[i][0].shape[0]):
            h, w = self._images[i][0].shape[:2]
            full_w, full_h = (-(-(n + 2 * MARGIN) // step) * step for n in (w, h))
            if x + full_w > ATLAS_WIDTH:
                x, y, row_height = 0, y + row_height, 0
            rects[i] = x + step, y + step, w, h
            x += full_w + step
            row_height = max(row_height, full_h + step)
        height = y + row_height + step
        colour = np.zeros((height, ATLAS_WIDTH + 2 * step, 3), np.uint8)
        opacity = np.zeros(colour.shape[:2], np.uint8)
        for (x, y, w, h), (image, alpha) in zip(rects, self._images, strict=True):
            m = MARGIN
            padded = cv2.copyMakeBorder(image, m, m, m, m, cv2.BORDER_REPLICATE)
            colour[y - m : y + h + m, x - m : x + w + m] = padded
            opacity[y : y + h, x : x + w] = 255 if alpha is None else alpha
        tops = height * 2 - (height * 2 >> np.arange(LEVELS))
        pyramid = np.zeros((height * 2, colour.shape[1], 3), np.uint8)
        pyramid[:height] = level = colour
        opacities = [opacity]
        for top in tops[1:]:
            half = (level.shape[1] // 2, level.shape[0] // 2)
            level = cv2.resize(level, half, interpolation=cv2.INTER_AREA)
            pyramid[top : top + half[1], : half[0]] = level
            opacities.append(cv2.resize(opacities[-1], half, interpolation=cv2.INTER_AREA))
        return rects, pyramid, tops, opacities


class Painter:
    """Paints the textures of one scene. All random numbers come from `rng`."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._fine = rng.standard_normal((640, 640), np.float32)
        self._coarse = np.zeros((640, 640), np.float32)
        for cells, weight in ((5, 1.0), (12, 0.7), (40, 0.5), (120, 0.35)):
            field = rng.standard_normal((cells, cells), np.float32) * weight
            self._coarse += cv2.resize(field, (640, 640), interpolation=cv2.INTER_CUBIC)

    def coarse(self, h: int, w: int) -> np.ndarray:
        """Return cloudy noise of about unit strength, (h, w) float32."""
        y, x = self.rng.integers(0, 641 - h), self.rng.integers(0, 641 - w)
        return self._coarse[y : y + h, x : x + w]

    def plain(self, h: int, w: int, colour, coarse: float = 0.08, fine: float = 0.05) -> np.ndarray:
        """Return an image of one colour with blotches and grain of the given strengths, (h, w, 3) uint8."""
        y, x = self.rng.integers(0, 641 - h), self.rng.integers(0, 641 - w)
        factor = 1 + coarse * self.coarse(h, w) + fine * self._fine[y : y + h, x : x + w]
        return np.clip(factor[..., None] * np.asarray(colour, np.float32), 0, 255).astype(np.uint8)

    def material(self) -> np.ndarray:
        """Return a colour that is common on walls, cars, clothes and bins: (3,) float."""
        kinds = ((150, 140, 125), (120, 75, 60), (190, 185, 175), (70, 75, 85), (95, 100, 80), (165, 130, 90))
        kinds += ((60, 80, 115), (45, 45, 48), (130, 50, 45), (205, 205, 205))
        return np.clip(np.array(kinds[self.rng.integers(len(kinds))]) + self.rng.normal(0, 12, 3), 20, 235)

    def sky(self) -> np.ndarray:
        h, w = 256, 512
        top = np.array((70, 115, 185)) * self.rng.uniform(0.8, 1.2)
        cover = self.rng.uniform(0, 1)
        grey = np.full(3, self.rng.uniform(150, 225))
        down = np.linspace(0, 1, h)[:, None, None] ** 0.7
        clear = top * (1 - down) + np.array((205, 215, 225)) * down
        clear = clear * (1 - cover * 0.6) + grey * cover * 0.6
        cloud = cv2.resize(self.coarse(300, 160), (w, h), interpolation=cv2.INTER_CUBIC)
        cloud = np.clip(0.5 * cloud + cover - 0.4, 0, 1)[..., None] * 0.8
        shade = 235 - 30 * cv2.resize(self.coarse(200, 200), (w, h))[..., None]
        return np.clip(clear * (1 - cloud) + shade * cloud, 0, 255).astype(np.uint8)

    def road(self, lanes: int, marked: bool, crosswalk: bool) -> np.ndarray:
        """Paint a piece of road across its whole width, far end on top."""
        h, w = 256, 320
        image = self.plain(h, w, np.full(3, self.rng.uniform(75, 115)), 0.09, 0.06)
        for _ in range(self.rng.integers(1, 4)):  # repairs and cracks
            x, y = self.rng.integers(0, w), self.rng.integers(0, h)
            patch = image[y : y + self.rng.integers(10, 80), x : x + self.rng.integers(10, 60)]
            patch[:] = (patch * self.rng.uniform(0.75, 1.1)).clip(0, 255).astype(np.uint8)
            end = int(x + self.rng.integers(-60, 60)), int(self.rng.integers(0, h))
            cv2.line(image, (int(x), int(y)), end, (55, 55, 55), 1, cv2.LINE_AA)
        paint = float(self.rng.uniform(175, 225))
        if marked:
            for lane in range(1, lanes):
                x = w * lane // lanes
                end = h // 2 if lane * 2 != lanes or self.rng.random() < 0.5 else h
                cv2.rectangle(image, (x - 2, 0), (x + 2, end), (paint,) * 3, -1)
        for x in (5, w - 8):
            cv2.line(image, (x, 0), (x, h), (paint * 0.8,) * 3, 3)
        if crosswalk:
            for x in range(14, w - 20, 26):
                cv2.rectangle(image, (x, 70), (x + 12, 170), (paint,) * 3, -1)
        worn = self.plain(h, w, (255, 255, 255), 0.05, 0.05)
        return cv2.multiply(image, worn, scale=1 / 255)

    def paving(self) -> np.ndarray:
        h, w = 256, 128
        image = self.plain(h, w, self.rng.uniform(0.85, 1.1) * np.array((135, 130, 125)), 0.07, 0.06)
        step = int(self.rng.choice((16, 21, 32)))
        joint = (image.mean(axis=(0, 1)) * 0.7).tolist()
        for y in range(0, h, step):
            cv2.line(image, (0, y), (w, y), joint, 1)
            for x in range((y // step % 2) * step // 2, w, step):
                cv2.line(image, (x, y), (x, y + step), joint, 1)
        return image

    def grass(self) -> np.ndarray:
        colour = np.array(((85, 105, 50), (120, 110, 75), (100, 120, 70))[self.rng.integers(3)], float)
        return self.plain(192, 192, colour, 0.15, 0.2)

    def facade(self, bays: int, floors: int) -> np.ndarray:
        """Paint a house front of `bays` by `floors` windows. The lowest floor may be a shop."""
        h = w = 256
        wall = self.material()
        image = self.plain(h, w, wall, 0.06, 0.05)
        if self.rng.random() < 0.4:  # courses of brick
            image[:: int(self.rng.integers(4, 8))] = (wall * 0.85).astype(np.uint8)
        bay, floor = w / bays, h / floors
        wide, tall = self.rng.uniform(0.35, 0.75) * bay, self.rng.uniform(0.45, 0.7) * floor
        frame = self.material().tolist()
        shop = self.rng.random() < 0.5
        for j in range(floors):
            for i in range(bays):
                x, y = (i + 0.5) * bay, (j + 0.48) * floor
                a, b = (int(x - wide / 2), int(y - tall / 2)), (int(x + wide / 2), int(y + tall / 2))
                if shop and j == floors - 1:
                    a, b = (int(i * bay + 4), int(j * floor + floor * 0.25)), (int((i + 1) * bay - 4), h - 8)
                glass = np.array((60, 70, 85)) * self.rng.uniform(0.5, 1.5) + self.rng.uniform(0, 60)
                cv2.rectangle(image, a, b, glass.tolist(), -1)
                middle = (a[1] + b[1]) // 2
                light = (glass * 1.3 + 15).clip(0, 255).tolist()
                cv2.rectangle(image, a, (b[0], int(self.rng.uniform(a[1], middle))), light, -1)
                cv2.rectangle(image, a, b, frame, 2)
                cv2.line(image, ((a[0] + b[0]) // 2, a[1]), ((a[0] + b[0]) // 2, b[1]), frame, 1)
                cv2.line(image, (a[0] - 2, b[1] + 3), (b[0] + 2, b[1] + 3), (wall * 0.6).tolist(), 2)
        if shop:
            y = int((floors - 1) * floor)
            cv2.rectangle(image, (0, y), (w, y + int(floor * 0.2)), self.material().tolist(), -1)
        cv2.rectangle(image, (0, 0), (w, 5), (wall * 0.6).tolist(), -1)
        return image

    def skyline(self) -> tuple[np.ndarray, np.ndarray]:
        """Paint distant roofs as a cut-out."""
        h, w = 96, 384
        image, alpha = self.plain(h, w, (140, 140, 140)), np.zeros((h, w), np.uint8)
        x = 0
        while x < w:
            step, top = int(self.rng.integers(15, 45)), int(self.rng.integers(10, 60))
            image[:, x : x + step] = self.plain(h, min(step, w - x), self.material())
            image[top + 6 :: 8, x + 3 : x + step - 3 : 6] //= 2
            alpha[top:, x : x + step] = 255
            x += step
        return image, alpha

    def leaves(self, h: int, w: int) -> np.ndarray:
        colours = ((62, 85, 40), (80, 95, 50), (100, 90, 45), (55, 75, 55), (110, 80, 40))
        return self.plain(h, w, colours[self.rng.integers(len(colours))], 0.3, 0.3)

    def crown(self) -> tuple[np.ndarray, np.ndarray]:
        """Paint a tree's foliage as a cut-out."""
        h = w = 160
        y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
        solid = 1 - np.hypot(x, y) * 1.15 + 0.13 * self.coarse(h, w)
        solid[[0, -1]] = solid[:, [0, -1]] = -1
        image = self.leaves(h, w)
        light = np.clip(1.0 - 0.35 * y[..., None], 0, 2)
        return np.clip(image * light, 0, 255).astype(np.uint8), np.clip(solid * 900 + 127, 0, 255).astype(np.uint8)

    def treeline(self) -> tuple[np.ndarray, np.ndarray]:
        h, w = 96, 384
        top = 30 + 14 * self.coarse(1, w)[0]
        y = np.arange(h, dtype=np.float32)[:, None]
        return self.leaves(h, w), np.clip((y - top) * 100 + 127, 0, 255).astype(np.uint8)

    def fence(self) -> tuple[np.ndarray, np.ndarray]:
        h, w = 64, 192
        alpha = np.zeros((h, w), np.uint8)
        step = int(self.rng.integers(8, 14))
        for x in range(2, w, step):
            alpha[:, x : x + int(step * 0.6)] = 255
        alpha[8:16] = alpha[-20:-12] = 255
        return self.plain(h, w, self.material()), alpha

    def wall(self) -> np.ndarray:
        image = self.plain(96, 192, self.material(), 0.12, 0.08)
        image[::12] = image[::12] // 4 * 3
        return image

    def sign(self) -> tuple[np.ndarray, np.ndarray]:
        n = 48
        image, alpha = np.zeros((n, n, 3), np.uint8), np.zeros((n, n), np.uint8)
        rim, inner, mark = (
            ((185, 35, 40), (230, 230, 225), (30, 30, 30)),
            ((185, 35, 40), (180, 35, 40), (235, 235, 235)),
            ((225, 225, 225), (35, 75, 160), (235, 235, 235)),
            ((225, 225, 225), (225, 185, 40), (40, 40, 40)),
        )[self.rng.integers(4)]
        image[:] = rim
        shape = self.rng.integers(3)
        if shape == 0:
            cv2.circle(alpha, (n // 2, n // 2), n // 2 - 2, 255, -1)
            cv2.circle(image, (n // 2, n // 2), n // 2 - 8, inner, -1)
        elif shape == 1:
            for target, colour, m in ((alpha, 255, 2), (image, inner, 9)):
                cv2.fillConvexPoly(target, np.array(((n // 2, m), (n - m, n - m), (m, n - m))), colour)
        else:
            alpha[2:-2, 2:-2] = 255
            image[6:-6, 6:-6] = inner
        a = self.rng.integers(12, n - 12, (3, 2))
        cv2.polylines(image, [a], False, mark, 3)
        return image, alpha

    def traffic_light(self) -> np.ndarray:
        image = self.plain(72, 32, (38, 40, 38), 0.05, 0.05)
        lit = self.rng.integers(3)
        for i, colour in enumerate(((230, 50, 40), (235, 170, 40), (60, 220, 120))):
            cv2.circle(image, (16, 14 + 22 * i), 9, [c if i == lit else c // 5 for c in colour], -1, cv2.LINE_AA)
        return image

    def vehicle_side(self, outline: np.ndarray, window: np.ndarray, wheels) -> tuple[np.ndarray, np.ndarray]:
        """Paint a vehicle from its right side, front to the right.

        outline, window: (k, 2) in unit coordinates, with the origin at the rear bottom.
        wheels: (centre, radius) along the length, with the radius in heights.
        """
        h, w = 80, 192

        def texels(points):
            return np.rint(np.asarray(points) * (w - 1, 1 - h) + (0, h - 1)).astype(np.int32)

        alpha = np.zeros((h, w), np.uint8)
        image = self.plain(h, w, (225, 225, 225), 0.03, 0.02)
        image[h // 2 : h // 2 + 2] = 190
        cv2.fillPoly(alpha, [texels(outline)], 255)
        cv2.polylines(alpha, [texels(outline)], True, 255, 2)  # no gap to the roof
        if len(window):
            cv2.fillPoly(image, [texels(window)], self.rng.uniform(0.5, 1.2) * np.array((55, 62, 70)))
            for x in (0.45, 0.5, 0.72)[: self.rng.integers(1, 4)]:
                (x, _) = texels([(x, 0)])[0]
                image[: int(h * 0.8), x : x + 3] = 205
                image[:, x] = 120
        cv2.rectangle(image, (0, int(h * 0.55)), (5, int(h * 0.65)), (200, 40, 40), -1)
        cv2.rectangle(image, (w - 9, int(h * 0.58)), (w, int(h * 0.66)), (250, 250, 225), -1)
        for x, radius in wheels:
            centre, r = (int(x * w), int(h - 1 - radius * h)), int(radius * h)
            for target, colour in ((alpha, 255), (image, (22, 22, 24))):
                cv2.circle(target, centre, r, colour, -1)
            cv2.circle(image, centre, int(r * 0.62), (150, 150, 155), -1)
            for angle in np.arange(5) * 1.2566 + self.rng.uniform(0, 1):
                tip = centre[0] + int(r * 0.55 * np.cos(angle)), centre[1] + int(r * 0.55 * np.sin(angle))
                cv2.line(image, centre, tip, (70, 70, 75), 2)
        return image, alpha

    def vehicle_end(self, rear: bool) -> np.ndarray:
        """Paint the back or the front of a vehicle, from bumper to bonnet."""
        image = self.plain(64, 96, (220, 220, 220), 0.03, 0.02)
        lamp = (190, 30, 30) if rear else (250, 250, 235)
        for x in (4, 76):
            cv2.rectangle(image, (x, 12), (x + 16, 26), lamp, -1)
        cv2.rectangle(image, (0, 46), (96, 64), (50, 50, 52), -1)
        cv2.rectangle(image, (34, 34 if rear else 44), (62, 43 if rear else 52), (235, 235, 215), -1)
        if not rear:
            cv2.rectangle(image, (24, 14), (72, 32), (35, 35, 38), -1)
        return image

    def glass(self) -> np.ndarray:
        image = self.plain(48, 96, self.rng.uniform(0.6, 1.4) * np.array((60, 68, 78)), 0.1, 0.02)
        cv2.line(
            image,
            (int(self.rng.integers(10, 80)), 0),
            (int(self.rng.integers(10, 80)), 48),
            (130, 138, 145),
            6,
        )
        image[:, :4] = image[:, -4:] = image[:3] = 200
        return image

    def person(self, riding: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Paint a person who stands or walks, or who sits on a bicycle facing right, as a cut-out."""
        h, w = 160, 72
        image, alpha = np.zeros((h, w, 3), np.uint8), np.zeros((h, w), np.uint8)
        skin = np.array((215, 170, 140)) * self.rng.uniform(0.45, 1.05)
        coat, trousers, hair = self.material(), self.material() * 0.7, self.material() * 0.5
        middle, stride = w // 2, int(self.rng.integers(2, 15))

        def limb(points, colour, thick):
            points = np.array(points, np.int32)
            cv2.polylines(image, [points], False, colour.tolist(), thick + 2)
            cv2.polylines(alpha, [points], False, 255, thick)

        if riding:
            limb(((22, 78), (46, 92), (34, 128), (42, 132)), trousers, 12)
            limb(((24, 76), (42, 34)), coat, 22)
            limb(((42, 38), (50, 60), (66, 66)), coat * 0.85, 8)
            head = (48, 14)
        else:
            limb(
                ((middle - 4, 84), (middle - stride // 2 - 3, 118), (middle - stride - 2, 152)),
                trousers * 0.85,
                12,
            )
            limb(((middle + 4, 84), (middle + stride // 2 + 5, 118), (middle + stride, 154)), trousers, 12)
            limb(((middle, 36), (middle, 84)), coat, 28)
            limb(((middle - 16, 36), (middle - 18 - stride // 3, 62), (middle - 14, 86)), coat * 0.85, 8)
            limb(((middle + 16, 36), (middle + 18 + stride // 3, 62), (middle + 14, 86)), coat * 0.9, 8)
            head = (middle, 14)
        for target, colour in ((image, hair.tolist()), (alpha, 255)):
            cv2.ellipse(target, head, (9, 12), 0, 0, 360, colour, -1)
        cv2.ellipse(image, (head[0] + 2, head[1] + 4), (7, 8), 0, 0, 360, skin.tolist(), -1)
        grain = self.plain(h, w, (200, 200, 200), 0.1, 0.08)
        return cv2.multiply(image, grain, scale=1 / 190), alpha

    def bicycle(self) -> tuple[np.ndarray, np.ndarray]:
        h, w = 88, 144
        image, alpha = self.plain(h, w, (35, 35, 38)), np.zeros((h, w), np.uint8)
        frame = self.material().tolist()
        for x in (32, 112):
            cv2.circle(alpha, (x, 56), 28, 255, 6)
            for angle in np.arange(6) * np.pi / 6:
                d = np.array((np.cos(angle), np.sin(angle))) * 28
                ends = [tuple(np.rint(np.array((x, 56)) + s * d).astype(int).tolist()) for s in (-1, 1)]
                cv2.line(alpha, *ends, 255, 2)
        for points in (
            ((32, 56), (52, 18), (66, 58), (32, 56)),
            ((52, 22), (100, 18), (66, 58)),
            ((112, 56), (98, 8)),
        ):
            for target, colour, thick in ((alpha, 255, 6), (image, frame, 8)):
                cv2.polylines(target, [np.array(points)], False, colour, thick)
        cv2.line(alpha, (90, 8), (106, 8), 255, 6)
        cv2.line(alpha, (44, 14), (60, 14), 255, 7)
        return image, alpha
