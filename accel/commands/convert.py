"""Convert results from one format to another, or published weights from or to MXNet.

Results, of one video or of its segments, which become one:

    accel convert results/videos/drive.mp4-0c7a --to npz --out drive
    accel convert results/videos/.unfinished/drive.mp4-0c7a.123/labels.npz.part --to png --out rescued

Weights, from MXNet's `.params` files or back:

    accel convert accel-18 --params model/rfcn_dff_flownet_vid-0000.params \\
        model/accel-18-0000.params --out model/accel-18.safetensors
    accel convert accel-18 --to-mxnet --params runs/my_accel18 --out accel-18-0000.params
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accel.cli import Parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "what",
        nargs="+",
        help="results; or a network: accel-18, -34, -50 or -101; dff; deeplab-18, -34, -50 or -101; rfcn, dff-rfcn",
    )
    parser.add_argument("--to", help="format of the results: png, npz, zarr, coco, coco-polygons, cvat, json, csv")
    parser.add_argument("--params", nargs="+", help="weights to convert; later files override others")
    parser.add_argument("--out", required=True, help="file to write; with --to, the folder")
    parser.add_argument("--to-mxnet", action="store_true", help="convert a .safetensors file or run to a .params file")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    args = parser.parse_args(arguments)
    if (args.to is None) == (args.params is None):
        parser.error("expected --to FORMAT, for results, or --params FILES, for weights")

    if args.to is not None:
        if args.to_mxnet or args.overwrite:
            parser.error("--to-mxnet and --overwrite are for weights")
        from accel.formats.conversion import convert

        count = convert([Path(each) for each in args.what], args.to, Path(args.out))
        print(f"written: {args.out}/ ({count} frames, {args.to})")
        return

    from accel.models.published_models import check_version
    from accel.weights.conversion import from_mxnet, to_mxnet

    if len(args.what) > 1:
        parser.error("--params: expected one network")
    (version,) = args.what
    check_version(version)
    if args.to_mxnet and len(args.params) > 1:
        raise ValueError("--to-mxnet takes one weights file, or the folder of a run")
    if args.to_mxnet:
        count = to_mxnet(version, args.params[0], args.out, args.overwrite)
        print(f"{args.out}: {version}, {count} arrays")
    else:
        count = from_mxnet(version, args.params, args.out, args.overwrite)
        print(f"{args.out}: {version}, {count:,} parameters")
