"""Convert weights of the published networks from MXNet's `.params` files, or back.

    accel convert accel-18 --params model/rfcn_dff_flownet_vid-0000.params \\
        model/accel-18-0000.params --out model/accel-18.safetensors
    accel convert accel-18 --to-mxnet --params runs/my_accel18 --out accel-18-0000.params
"""

from __future__ import annotations

from collections.abc import Sequence

from accel.cli import Parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument("version", help="accel-18, -34, -50 or -101; dff; deeplab-18, -34, -50 or -101; rfcn, dff-rfcn")
    parser.add_argument("--params", nargs="+", required=True, help="weights to convert; of several files, later win")
    parser.add_argument("--out", required=True, help="file to write")
    parser.add_argument("--to-mxnet", action="store_true", help="from a .safetensors file or run, to a .params file")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    args = parser.parse_args(arguments)

    from accel.models.published_models import check_version
    from accel.weights.conversion import from_mxnet, to_mxnet

    check_version(args.version)
    if args.to_mxnet and len(args.params) > 1:
        raise ValueError("--to-mxnet takes one weights file, or the folder of a run")
    if args.to_mxnet:
        count = to_mxnet(args.version, args.params[0], args.out, args.overwrite)
        print(f"{args.out}: {args.version}, {count} arrays")
    else:
        count = from_mxnet(args.version, args.params, args.out, args.overwrite)
        print(f"{args.out}: {args.version}, {count:,} parameters")
