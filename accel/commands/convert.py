"""Convert results from one format to another; or published weights from or to MXNet or mmtracking.

Results, of one video or of its segments, which become one:

    accel convert results/videos/drive.mp4-0c7a --to npz --out drive
    accel convert results/videos/.unfinished/drive.mp4-0c7a.123/labels.npz.part --to png --out rescued

Weights, from MXNet's `.params` files or mmtracking's `.pth` files, or back:

    accel convert accel-18 --params model/rfcn_dff_flownet_vid-0000.params \\
        model/accel-18-0000.params --out model/accel-18.safetensors
    accel convert accel-18 --to-mxnet --params runs/my_accel18 --out accel-18-0000.params
    accel convert dff-faster-rcnn-r50 --params FILE.pth --out model/dff-faster-rcnn-r50.safetensors
    accel convert dff-faster-rcnn-r50 --to-mmtracking --params runs/my_run --out FILE.pth
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accel.cli import Parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    networks = "accel-18, -34, -50 or -101; dff; deeplab-18, -34, -50 or -101; rfcn, dff-rfcn; "
    parser.add_argument("what", nargs="+", help=f"results; or a network: {networks}dff-faster-rcnn-r50, -r101 or -x101")
    parser.add_argument("--to", help="format of the results: png, npz, zarr, coco, coco-polygons, cvat, json, csv")
    parser.add_argument("--params", nargs="+", help="weights to convert; later files override others")
    parser.add_argument("--out", required=True, help="file to write; with --to, the folder")
    parser.add_argument("--to-mxnet", action="store_true", help="convert a .safetensors file or run to a .params file")
    parser.add_argument("--to-mmtracking", action="store_true", help="convert one to a .pth file, likewise")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    args = parser.parse_args(arguments)
    if (args.to is None) == (args.params is None):
        parser.error("expected --to FORMAT, for results, or --params FILES, for weights")

    if args.to is not None:
        if args.to_mxnet or args.to_mmtracking or args.overwrite:
            parser.error("--to-mxnet, --to-mmtracking and --overwrite are for weights")
        from accel.formats.conversion import convert

        count = convert([Path(each) for each in args.what], args.to, Path(args.out))
        print(f"written: {args.out}/ ({count} frames, {args.to})")
        return

    from accel.models.published_models import MMTRACKING, check_version
    from accel.weights.conversion import from_mmtracking, from_mxnet, to_mmtracking, to_mxnet

    if len(args.what) > 1:
        parser.error("--params: expected one network")
    (version,) = args.what
    check_version(version)
    is_mmtrackings = version in MMTRACKING
    back = "--to-mmtracking" if is_mmtrackings else "--to-mxnet"
    if (args.to_mxnet and is_mmtrackings) or (args.to_mmtracking and not is_mmtrackings):
        raise ValueError(f"{version}: its original program's files are written by {back}")
    if (args.to_mxnet or args.to_mmtracking) and len(args.params) > 1:
        raise ValueError(f"{back} takes one weights file, or the folder of a run")
    if is_mmtrackings and len(args.params) > 1:
        raise ValueError(f"{version}: --params takes one checkpoint (.pth)")
    if args.to_mxnet or args.to_mmtracking:
        to_theirs = to_mmtracking if is_mmtrackings else to_mxnet
        count = to_theirs(version, args.params[0], args.out, args.overwrite)
        print(f"{args.out}: {version}, {count} arrays")
        return
    if is_mmtrackings:
        count = from_mmtracking(version, args.params[0], args.out, args.overwrite)
    else:
        count = from_mxnet(version, args.params, args.out, args.overwrite)
    print(f"{args.out}: {version}, {count:,} parameters")
