"""Streetscape on disk: generated scenes in the layout of Cityscapes. Snippets end with their labelled frame.

    ROOT/streetscape.json
    ROOT/leftImg8bit_sequence/SPLIT/CITY/CITY_SEQ_FRAME_leftImg8bit.png    FRAME 000000..000019
    ROOT/gtFine/SPLIT/CITY/CITY_SEQ_000019_gtFine_{labelIds,instanceIds,color}.png

A snippet's label files are written last. So a snippet with all its files is complete.
"""

from __future__ import annotations

import json
import multiprocessing
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import cv2
import numpy as np
from cityscapesscripts.helpers.labels import labels

from accel.datasets.streetscape.scene import FRAMES, SPLITS, StreetScene
from accel.files.small_files import read_text
from accel.files.whole_files import write_part
from accel.threads import usable_cores

VERSION = 1  # of the scenes' looks: raise it when the same seed gives other pictures
CITIES = {"train": "northgate", "val": "eastbrook", "test": "southmoor"}
GENERATOR = "accel streetscape"
MAX_SIDE = 8192  # pixels of a frame
LABELLED = 19  # the 20th frame, as in Cityscapes; the ten frames after it, which nobody reads, are not written
DESCRIPTION = "streetscape.json"
_NAME = re.compile(r"([a-z]+)_(\d{6})_(\d{6})_(?:leftImg8bit|gtFine_\w+)\.png")
_PALETTE = np.zeros((256, 3), np.uint8)
for _label in labels:
    if _label.id >= 0:
        _PALETTE[_label.id] = _label.color


def generate_streetscape(
    root: str | Path,
    snippets: dict[str, int] | None = None,
    size: tuple[int, int] = (256, 512),
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the snippets that `root` does not have yet, and return `root`.

    snippets: the number of snippets of train, val and test (default: 60 train, 20 val). Existing ones stay.
    size: (H, W) of the frames, each 64 to 8192.
    workers: the number of processes (default: one for each CPU). 0 works in this process. Scripts that start processes
        need the usual `if __name__ == "__main__":` guard.
    progress: a function that is called with (done, total) snippets, of those that had to be written.

    Raises ValueError if `root` holds scenes of another seed, size or version, or is another data set.
    """
    root = Path(root)
    snippets = {"train": 60, "val": 20} if snippets is None else snippets
    check_request(snippets, size)
    describe(root, size, seed, GENERATOR, ("leftImg8bit_sequence", "gtFine"))
    wanted = [(root, split, i) for split in SPLITS for i in range(snippets.get(split, 0))]
    jobs = [
        (*job, (size[0], size[1]), seed) for job in wanted if not all(path.exists() for path in snippet_files(*job))
    ]
    write_scenes(_write_snippet, jobs, workers, progress)
    return root


def check_request(snippets: dict[str, int], size: tuple[int, int]) -> None:
    """Raise ValueError for a split or a size of frames (H, W) that there cannot be."""
    if unknown := set(snippets) - set(SPLITS):
        raise ValueError(f"snippets: unknown split {', '.join(sorted(unknown))}; expected {', '.join(SPLITS)}")
    if min(size) < 64 or max(size) > MAX_SIDE:
        raise ValueError(f"size: expected (H, W), each 64 to {MAX_SIDE}, got {tuple(size)}")


def write_scenes(
    write: Callable[..., None],
    jobs: Sequence[tuple],
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Call `write` with the arguments of each job, in several processes.

    workers, progress: as for `generate_streetscape`.
    """
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(jobs))

    workers = usable_cores() if workers is None else workers
    if workers == 0 or not jobs:
        for job in jobs:
            write(*job)
            report()
        return
    # not by fork: the caller's threads (torch's, OpenCV's) may hold locks that a forked child would wait for
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), context, cv2.setNumThreads, (1,)) as pool:
        try:
            for future in as_completed([pool.submit(write, *job) for job in jobs]):
                future.result()
                report()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def snippet_files(root: str | Path, split: str, index: int) -> Iterator[Path]:
    """Yield all files of a snippet in the order of writing: 20 frames, then instanceIds, color, labelIds."""
    city = CITIES[split]
    images, truth = Path(root, "leftImg8bit_sequence", split, city), Path(root, "gtFine", split, city)
    for frame in range(LABELLED + 1):
        yield images / f"{city}_{index:06d}_{frame:06d}_leftImg8bit.png"
    for kind in ("instanceIds", "color", "labelIds"):
        yield truth / f"{city}_{index:06d}_{LABELLED:06d}_gtFine_{kind}.png"


def scene_of(root: str | Path, path: str | Path) -> tuple[StreetScene, int]:
    """Return the scene and the frame number that a Streetscape file, image or label, shows.

    Raises ValueError if `root` is not a Streetscape root, or if `path` does not have the name of such a file.
    """
    path = Path(path)
    name = _NAME.fullmatch(path.name)
    if name is None or name[1] not in CITIES.values() or int(name[3]) >= FRAMES:
        raise ValueError(
            f"{path}: not a Streetscape file name; expected CITY_SEQ_FRAME_leftImg8bit.png "
            f"with a CITY of {', '.join(CITIES.values())} and a FRAME of 000000..{FRAMES - 1:06d}"
        )
    split = next(s for s, city in CITIES.items() if city == name[1])
    description = _read_description(Path(root))
    if description["version"] != VERSION:
        raise ValueError(
            f"{Path(root) / DESCRIPTION}: found version {description['version']!r}, expected {VERSION}; "
            "its scenes cannot be drawn again: generate new ones in another root"
        )
    return StreetScene(description["seed"], split, int(name[2]), tuple(description["size"])), int(name[3])


def streetscape_flow(root: str | Path, split: str, city: str, sequence: int | str, frame: int | str) -> np.ndarray:
    """Return `StreetScene.flow` of a frame given by the parts of its file name: (H, W, 2) float32."""
    if CITIES.get(split) != city:
        expected = ", ".join(f"{s}/{c}" for s, c in CITIES.items())
        raise ValueError(f"no such Streetscape split and city: {split}/{city}; expected one of {expected}")
    scene, number = scene_of(root, f"{city}_{int(sequence):06d}_{int(frame):06d}_leftImg8bit.png")
    return scene.flow(number)


def describe(root: Path, size: tuple[int, int], seed: int, generator: str, folders: Sequence[str]) -> None:
    """Write `streetscape.json` into a new root, or compare with the one in an old root.

    generator: what writes the scenes.  folders: those it fills. In a new root there must be none of them.
    """
    expected = {
        "generator": generator,
        "version": VERSION,
        "seed": seed,
        "size": [int(n) for n in size],
    }
    file = root / DESCRIPTION
    if file.exists():
        found = _read_description(root)
        for key, value in expected.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{file}: found {key} {found.get(key)!r}, expected {value!r}; "
                    "one root holds scenes of one kind: choose another root, or the same settings"
                )
        return
    for folder in folders:
        if (root / folder).exists():
            raise ValueError(f"{root / folder}: found a data set that is not Streetscape; expected an empty root")
    root.mkdir(parents=True, exist_ok=True)
    write_part(file, (json.dumps(expected, indent=2) + "\n").encode())


def _read_description(root: Path) -> dict:
    file = root / DESCRIPTION
    try:
        found = json.loads(read_text(file))
    except FileNotFoundError:
        raise ValueError(f"{root}: not a Streetscape root; expected {DESCRIPTION} in it") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: damaged ({error}); expected a JSON object") from None
    if not isinstance(found, dict) or not {"seed", "size", "version"} <= set(found):
        raise ValueError(f"{file}: expected a JSON object with version, seed and size")
    seed, size = found["seed"], found["size"]
    if type(seed) is not int or seed < 0:
        raise ValueError(f"{file}: seed {seed!r:.100}: expected a whole number from 0")
    if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and 64 <= n <= MAX_SIDE for n in size)):
        raise ValueError(f"{file}: size {size!r:.100}: expected [height, width], each 64 to {MAX_SIDE}")
    return found


def _write_snippet(root: Path, split: str, index: int, size: tuple[int, int], seed: int) -> None:
    scene = StreetScene(seed, split, index, size)
    *images, instances, colour, label_ids = snippet_files(root, split, index)
    for old in (label_ids, colour, instances):  # labels over half of the old frames would look whole
        old.unlink(missing_ok=True)
    images[0].parent.mkdir(parents=True, exist_ok=True)
    label_ids.parent.mkdir(parents=True, exist_ok=True)
    for frame, path in enumerate(images):
        rendering = scene.render(frame)
        write_part(path, _png(rendering.image[..., ::-1]))
        if frame == LABELLED:
            labelled = rendering
    write_part(instances, _png(labelled.instance_ids.astype(np.uint16)))
    write_part(colour, _png(_PALETTE[labelled.label_ids][..., ::-1]))
    write_part(label_ids, _png(labelled.label_ids))


def _png(image: np.ndarray) -> bytes:
    # Huffman coding alone: noise leaves no repetitions, and looking for them takes most of the time
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    if image.ndim == 3:
        options += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
    ok, data = cv2.imencode(".png", image, options)
    assert ok
    return data.tobytes()
