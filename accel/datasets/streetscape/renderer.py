"""A renderer for textured planar quads. It uses a z-buffer of surface numbers, and tables of surfaces for the rest.

Every surface is a plane with a 4x3 matrix from atlas texels to homogeneous points of the rigid body it belongs to. So
the camera's view of it is a homography. Colour, depth, labels and optical flow of a pixel all follow from the number of
the visible surface and its homographies. Nothing is estimated.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

NEAR = 0.3  # metres; what is closer to the camera is not drawn
SKY = 0  # number of the surface at infinity that fills what no other covers


@dataclass(frozen=True)
class Surfaces:
    """N planar quads. Surface 0 is the sky: its points are at infinity (last homogeneous coordinate 0).

    corners: (N, 4, 4) homogeneous corners on the body: top left, top right, bottom right, bottom left.
    plane: (N, 4, 3) from atlas texels (x, y, 1) to homogeneous body coordinates.
    body: (N,) index of the rigid body.
    facing: (N,) the side from which it is visible: where the texture reads right (1) or mirrored (-1), or both (0).
    rect: (N, 4) x, y, width, height of the texture in the atlas.
    cutout: (N,) whether the texture has holes.
    patch: (N,) number of the patch. Surfaces of one patch continue and never hide each other (the pieces of the road).
    ground: (N,) whether cast shadows fall on it.
    tint: (N, 3) factor on the texture's colour: paint and light.
    label, instance: (N,) Cityscapes labelIds and instanceIds.
    """

    corners: np.ndarray
    plane: np.ndarray
    body: np.ndarray
    facing: np.ndarray
    rect: np.ndarray
    cutout: np.ndarray
    patch: np.ndarray
    ground: np.ndarray
    tint: np.ndarray
    label: np.ndarray
    instance: np.ndarray


@dataclass(frozen=True)
class View:
    """The geometry of one frame.

    to_image, to_texture: homographies (N, 3, 3) from texels to pixels and back.
    ids: (H, W) int16, the number of the surface visible in each pixel.
    inverse_depth: (H, W) float32, 1/metres, 0 in the sky.
    """

    to_image: np.ndarray
    to_texture: np.ndarray
    ids: np.ndarray
    inverse_depth: np.ndarray


def look(surfaces: Surfaces, alpha: list[np.ndarray], camera: np.ndarray, poses: np.ndarray, size) -> View:
    """Return the camera's view of the surfaces.

    alpha: the opacity of the atlas, one (h, w) uint8 image for each pyramid level.
    camera: (3, 4), world metres to pixels.
    poses: (B, 4, 4), body to world, for each body.
    """
    height, width = size
    to_camera = (camera @ poses)[surfaces.body]  # (N, 3, 4)
    to_image = to_camera @ surfaces.plane
    corners = np.einsum("nij,nkj->nki", to_camera, surfaces.corners)  # (N, 4, 3) pixels times depth, depth
    scale = np.abs(to_image).max(axis=(1, 2), keepdims=True)
    turn = np.linalg.det(to_image / scale)
    depth = corners[..., 2]
    seen = (depth.max(axis=1) > NEAR) & (turn * surfaces.facing >= 0) & (np.abs(turn) > 1e-13)
    to_texture = np.broadcast_to(np.eye(3), to_image.shape).copy()
    to_texture[seen] = np.linalg.inv(to_image[seen])
    # (weight of the homogeneous point) / (depth times weight): 1/depth is affine in pixels
    planes = np.einsum("nj,njk->nk", surfaces.plane[:, 3], to_texture)  # (N, 3)

    whole = depth.min(axis=1) > NEAR
    pixels = corners[..., :2] / np.where(depth > NEAR, depth, NEAR)[..., None]  # (N, 4, 2) outlines
    for n in np.flatnonzero(seen & ~whole):
        pixels[n] = _outline_box(_clip_near(corners[n]))
    low = np.clip(np.ceil(pixels.min(axis=1)), 0, (width, height)).astype(int)
    high = np.clip(np.floor(pixels.max(axis=1)), -1, (width - 1, height - 1)).astype(int)
    seen &= (high >= low).all(axis=1)
    seen[SKY] = False
    order = np.flatnonzero(seen)
    order = order[np.argsort(depth[order].min(axis=1))]  # near ones first: most of what is hidden is then skipped
    slopes, starts = _edges(corners)
    levels, to_level = _cutout_levels(surfaces.rect, to_texture, (low + high) / 2, len(alpha))

    ids = np.full(size, SKY, np.int16)
    nearest = np.zeros(size, np.float32)
    xs, ys = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    columns, rows = xs.astype(np.float32), ys[:, None]
    todo = zip(order.tolist(), low[order].tolist(), (high[order] + 1).tolist(), planes[order].tolist(), strict=True)
    for n, (x0, y0), (x1, y1), (a, b, c) in todo:
        inverse = (b * rows[y0:y1] + c).astype(np.float32) + (a * xs[x0:x1]).astype(np.float32)
        before = nearest[y0:y1, x0:x1]
        visible = inverse > before
        if not visible.any():
            continue
        if surfaces.cutout[n]:
            level, matrix = levels[n], to_level[n].copy()
            matrix[:, 2] += x0 * matrix[:, 0] + y0 * matrix[:, 1]
            x, y, w, h = (surfaces.rect[n] >> level).tolist()
            texture = alpha[level][y : y + max(h, 1), x : x + max(w, 1)]
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            visible &= cv2.warpPerspective(texture, matrix, (x1 - x0, y1 - y0), flags=flags) > 127
        else:
            crossing = slopes[n] * ys[y0:y1] + starts[n]  # (8, rows)
            visible &= columns[x0:x1] >= crossing[:4].max(axis=0).astype(np.float32)[:, None]
            visible &= columns[x0:x1] <= crossing[4:].min(axis=0).astype(np.float32)[:, None]
        np.copyto(before, inverse, where=visible)
        np.copyto(ids[y0:y1, x0:x1], n, where=visible)
    return View(to_image, to_texture, ids, nearest)


def _clip_near(corners: np.ndarray) -> np.ndarray:
    """Return the outline, in pixels, of the part of a quad in front of the near plane. corners: (4, 3), pixels times
    depth, depth."""
    points = []
    for p, q in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if p[2] >= NEAR:
            points.append(p)
        if (p[2] >= NEAR) != (q[2] >= NEAR):
            points.append(p + (q - p) * ((NEAR - p[2]) / (q[2] - p[2])))
    cut = np.array(points)
    return cut[:, :2] / cut[:, 2:]


def _outline_box(outline: np.ndarray) -> np.ndarray:
    (x0, y0), (x1, y1) = outline.min(axis=0), outline.max(axis=0)
    return np.array(((x0, y0), (x1, y0), (x1, y1), (x0, y1)))


def _edges(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the lines along the quads' edges cross the pixel rows y: at slope * y + start, (N, 8, 1) each.

    In each row, a quad reaches from the maximum of the first four to the minimum of the last four. Values of edges that
    are not left or right ones are out of the way. A line is the image of the plane through edge and camera, so this
    also holds for quads that reach behind the camera.
    """
    lines = np.cross(corners, np.roll(corners, -1, axis=1))  # (N, 4, 3): line . (x, y, 1) = 0
    lines *= np.sign(np.einsum("nkc,nc->nk", lines, corners.mean(axis=1)))[..., None]  # positive inside
    a, b, c = np.moveaxis(lines, -1, 0)
    left, right = a > 1e-9 * np.abs(b), a < -1e-9 * np.abs(b)
    safe = np.where(left | right, a, 1)
    slack = 1e-3  # pixels; so that no crack opens between neighbours
    starts = np.where(left, -c / safe - slack, -np.inf), np.where(right, -c / safe + slack, np.inf)
    slopes = np.where(left, -b / safe, 0), np.where(right, -b / safe, 0)
    return np.concatenate(slopes, axis=1)[..., None], np.concatenate(starts, axis=1)[..., None]


def _cutout_levels(rect, to_texture, middle, levels: int):
    """Return the pyramid level for looking up a texture's opacity, and the matrices (N, 3, 3) from pixels to that
    level's part of the texture.

    At that level, a pixel in the `middle` (N, 2) covers about one texel.
    """
    w = np.abs(to_texture[:, 2, 0] * middle[:, 0] + to_texture[:, 2, 1] * middle[:, 1] + to_texture[:, 2, 2])
    texels = np.abs(np.linalg.det(to_texture)) / np.maximum(w, 1e-9) ** 3  # a pixel
    level = np.clip(np.rint(0.5 * np.log2(np.maximum(texels, 1e-9))), 0, levels - 1).astype(int)
    shrink = 0.5**level
    matrix = np.zeros((len(rect), 3, 3))
    matrix[:, 0, 0] = matrix[:, 1, 1] = shrink
    matrix[:, 2, 2] = 1
    matrix[:, :2, 2] = (0.5 * shrink - 0.5)[:, None] - (rect[:, :2] >> level[:, None])
    return level, matrix @ to_texture


def texture_colours(surfaces: Surfaces, pyramid: np.ndarray, tops: np.ndarray, view: View) -> list[np.ndarray]:
    """Return the visible colours of the textures, before tint and light: three (H, W) float32 planes.

    pyramid: the atlas with its smaller levels below it. Level l starts in row `tops[l]`.
    """
    height, width = view.ids.shape
    ids = view.ids.astype(np.intp)
    table = view.to_texture.reshape(-1, 9).astype(np.float32)
    xs, ys = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    column = np.ascontiguousarray(table.T)

    def row(i):
        return _row_of_homographies(column, ids, xs, ys, i)

    x, y, w = row(0), row(3), row(6)
    np.reciprocal(w, out=w)
    x *= w
    y *= w
    # a homography enlarges areas by det / w^3: choose the level on which a pixel covers about a texel
    size = np.log2(np.abs(np.linalg.det(view.to_texture)) + 1e-30).astype(np.float32) * 0.5
    level = np.log2(np.abs(w, out=w), out=w)
    level *= 1.5
    level += size.take(ids)
    level = np.clip(level + 0.3, 0, len(tops) - 1).astype(np.intp)
    shrink = (0.5 ** np.arange(len(tops))).astype(np.float32)
    scale = shrink.take(level)
    for coordinate, start in ((x, np.zeros(len(tops))), (y, tops)):
        coordinate *= scale
        coordinate += (start + 0.5 * shrink - 0.5).astype(np.float32).take(level)
    colours = cv2.remap(pyramid, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return [channel.astype(np.float32) for channel in cv2.split(colours)]


def _row_of_homographies(column: np.ndarray, ids: np.ndarray, xs: np.ndarray, ys: np.ndarray, i: int) -> np.ndarray:
    """Return entries i, i+1, i+2 of each pixel's homography (`column` is (9, surfaces)) times (x, y, 1): (H, W)."""
    value = column[i].take(ids)
    value *= xs
    other = column[i + 1].take(ids)
    other *= ys
    value += other
    value += column[i + 2].take(ids)
    return value


def backward_flow(surfaces: Surfaces, view: View, before: View) -> np.ndarray:
    """Return the displacement from each pixel centre of `view` to the place of that surface point in `before`: (H, W,
    2) float32.

    It is NaN if the pixel nearest to that place shows another surface, or if the place is outside the image.
    """
    height, width = view.ids.shape
    ids = view.ids.astype(np.intp)
    motion = (before.to_image @ view.to_texture).reshape(-1, 9)
    column = np.ascontiguousarray(motion.T)
    xs, ys = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)[:, None]

    def row(i):
        return _row_of_homographies(column, ids, xs, ys, i)

    w = row(6)
    hidden = w <= 0  # it was behind the camera; surfaces at infinity keep w > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = row(0) / w, row(3) / w
        column_before = np.rint(x)
        row_before = np.rint(y)
    hidden |= ~((column_before >= 0) & (column_before < width) & (row_before >= 0) & (row_before < height))
    place = np.where(hidden, 0, row_before * width + column_before).astype(np.intp)
    patch = surfaces.patch
    hidden |= patch[before.ids.ravel().astype(np.intp)].take(place) != patch.take(ids)
    flow = np.empty((height, width, 2), np.float32)
    flow[..., 0] = x - xs
    flow[..., 1] = y - ys
    flow[hidden] = np.nan
    return flow


def shadow_mask(outlines: np.ndarray, camera: np.ndarray, size) -> np.ndarray:
    """Return where flat shadows are visible, (H, W) uint8, with 255. Each shadow is given by four world points, (M, 4,
    3)."""
    mask = np.zeros(size, np.uint8)
    points = outlines @ camera[:, :3].T + camera[:, 3]  # (M, 4, 3)
    for corners in points[(points[..., 2] > NEAR).any(axis=1)]:
        whole = corners[:, 2].min() > NEAR
        outline = corners[:, :2] / corners[:, 2:] if whole else _clip_near(corners)
        outline = outline.clip(-8 * max(size), 8 * max(size))
        cv2.fillConvexPoly(mask, np.rint(outline * 16).astype(np.int32), 255, cv2.LINE_8, 4)
    return mask
