"""Convert weights of the published networks from MXNet's `.params` files, or back.

    python tools/convert_weights.py accel-18 --params model/rfcn_dff_flownet_vid-0000.params \\
        model/accel-18-0000.params --out model/accel-18.safetensors
    python tools/convert_weights.py accel-18 --to-mxnet --params runs/my_accel18 --out accel-18-0000.params
"""

from __future__ import annotations

from accel.cli import Parser, run
from accel.models.published import VERSIONS


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("version", choices=VERSIONS, metavar="version", help=", ".join(VERSIONS))
    parser.add_argument("--params", nargs="+", required=True, help="weights to convert; of several files, later win")
    parser.add_argument("--out", required=True, help="file to write")
    parser.add_argument("--to-mxnet", action="store_true", help="from a .safetensors file or run, to a .params file")
    args = parser.parse_args()

    from accel.weights.conversion import from_mxnet, to_mxnet

    if not args.to_mxnet:
        print(f"{args.out}: {args.version}, {from_mxnet(args.version, args.params, args.out):,} parameters")
    elif len(args.params) > 1:
        raise ValueError("--to-mxnet takes one weights file, or the folder of a run")
    else:
        print(f"{args.out}: {args.version}, {to_mxnet(args.version, args.params[0], args.out)} arrays")


if __name__ == "__main__":
    run(main)
