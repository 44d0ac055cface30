"""Show what learned sampling has learned: its offsets, the attention of one position, and the mean over all positions.

python tools/show_sampling.py --checkpoint runs/lsts/dff_streetscape --offsets offsets.png
python tools/show_sampling.py --checkpoint runs/lsts/dff_streetscape --attention attention.png \\
    --key 0.png --current 4.png --at 200 150
python tools/show_sampling.py --checkpoint runs/lsts/dff_streetscape --summary attention.json \\
    --cfg experiments/lsts/dff_streetscape.yaml --distance 4
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from accel.cli import Parser, run


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="folder of a run, finished or not, or a .safetensors file")
    parser.add_argument("--offsets", metavar="PNG", help="draw the offsets and their paths in training here")
    parser.add_argument("--attention", metavar="PNG", help="draw the attention here; needs --key, --current and --at")
    parser.add_argument("--key", metavar="IMAGE", help="the key frame")
    parser.add_argument("--current", metavar="IMAGE", help="a frame after it")
    parser.add_argument("--at", nargs=2, type=int, metavar=("X", "Y"), help="the position, in pixels of that frame")
    parser.add_argument("--summary", metavar="JSON", help="write means over the test split here; needs --cfg")
    parser.add_argument("--cfg", help="configuration of the data")
    parser.add_argument("--distance", type=int, default=4, help="for --summary: frames since key frames (default: 4)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    args = parser.parse_args()
    if not (args.offsets or args.attention or args.summary):
        raise ValueError("nothing to draw: give --offsets PNG, --attention PNG, --summary JSON or several of them")
    if args.attention and not (args.key and args.current and args.at):
        raise ValueError("--attention needs --key IMAGE, --current IMAGE and --at X Y")
    if args.summary and not args.cfg:
        raise ValueError("--summary needs --cfg FILE, the configuration of the data")

    from accel.inference.loading import load_model

    if args.offsets:
        draw_ways(args.checkpoint, args.offsets)
    if args.attention or args.summary:
        model = load_model(args.checkpoint, device=args.device)
        if args.attention:
            draw_position(model, args)
        if args.summary:
            summarize(model, args)


def draw_ways(checkpoint: str, path: str) -> None:
    from accel.progress import console
    from accel.training.offsets import read_offsets
    from accel.visualize_sampling import draw_offsets, save_png

    steps, offsets = read_offsets(Path(checkpoint))
    save_png(path, draw_offsets(offsets))
    before, now = (float((o - o.mean(0)).std()) for o in (offsets[0], offsets[-1]))
    console.print(f"{path}: steps {steps[0]} to {steps[-1]}, spread {before:.2f} to {now:.2f} cells")


def draw_position(model, args) -> None:
    from accel.files.images import read_image
    from accel.progress import console
    from accel.visualize_sampling import attention_at, draw_attention, sampling_of, save_png

    offsets = sampling_of(model, args.checkpoint).offsets.detach().cpu().numpy()
    key, current = read_image(args.key), read_image(args.current)
    weights = attention_at(model, key, current, tuple(args.at))
    save_png(args.attention, draw_attention(key, current, tuple(args.at), offsets, weights))
    dx, dy = offsets[weights.argmax()]
    console.print(f"{args.attention}: most from {dx:+.1f}, {dy:+.1f} cells ({100 * weights.max():.0f} %)")


def summarize(model, args) -> None:
    from accel.config import load_config
    from accel.datasets import build_dataset
    from accel.evaluation.running.attention import summarize_attention
    from accel.evaluation.tables import write_json
    from accel.progress import console

    data = load_config(args.cfg).data
    found = summarize_attention(model, build_dataset(data, data.test_split), args.distance)
    write_json(args.summary, {"checkpoint": args.checkpoint, "cfg": args.cfg, **asdict(found)})
    strongest, aligned, farther, evenly = (
        f"{100 * share:.1f} %"
        for share in (found.strongest, found.aligned, found.farther_half, found.farther_half_evenly)
    )
    console.print(
        f"{args.summary}: {found.frames} frames, {found.distance} from their key frames: the strongest offset has "
        f"{strongest} of the weight, aligned features are {aligned} of the mix, the farther half of the offsets has "
        f"{farther} of the weight ({evenly} if all had the same weight)"
    )


if __name__ == "__main__":
    run(main)
