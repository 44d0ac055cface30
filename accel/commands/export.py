"""Export a model for ONNX Runtime, or as compiled code for libtorch, and check it against PyTorch.

accel export accel-lite-camvid --to onnx --size 360 480 --out exported
accel label drive.mp4 --model exported

The folder holds key and next (the two calls of a model), model.json, and ten frames with their labels. A large model
takes some minutes. docs/export.md says how to use the folder from Python without PyTorch, and from C++.
"""

from __future__ import annotations

from collections.abc import Sequence

from accel.cli import Parser


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "run", metavar="RUN", help="name of weights, folder of a run, .safetensors file, hf://OWNER/NAME"
    )
    parser.add_argument("--to", choices=("onnx", "aoti"), default="onnx", help="what to make (default: onnx)")
    sizes = parser.add_mutually_exclusive_group(required=True)
    sizes.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the frames, in pixels")
    sizes.add_argument("--dynamic", action="store_true", help="for frames of any size")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="of weights (default: fp32)")
    parser.add_argument("-i", "--interval", type=int, default=5, help="frames from key frame to key frame (default: 5)")
    parser.add_argument("--no-grid-sample", action="store_true", help="for runtimes that compute GridSample wrongly")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="new folder, or an earlier export to replace")
    args = parser.parse_args(arguments)

    from accel.exporting import export
    from accel.progress import console
    from accel.runtime.folder import read

    size = None if args.dynamic else tuple(args.size)
    folder = export(
        args.run, args.out, args.to, size, args.precision, args.interval, not args.no_grid_sample, console.print
    )
    exported = read(folder)
    for graph in exported.graphs.values():
        console.print(f"{graph.path.name}: {graph.path.stat().st_size / 1e6:.1f} MB")
    for check in exported.about["checks"]:
        console.print(
            f"checked on {check['frames']} frames of {check['size'][0]}x{check['size'][1]}: "
            f"{100 * check['equal_labels']:.3f}% of the labels are PyTorch's"
        )
    console.print(f"written: {folder}/; next: accel label VIDEO --model {folder}", soft_wrap=True)
