"""Time the published graphs in MXNet. A script for MXNet's own interpreter: it imports neither torch nor accel.

    PYTHON mxnet_original.py SYMBOLS HEIGHT WIDTH INTERVAL ROUNDS [OPERATORS]

SYMBOLS is a folder with key-symbol.json and cur-symbol.json. OPERATORS is a Python file that registers the operators
which MXNet lacks: detectors have some. Weights are made up: only time counts. Prints one line {"version": MXNet's,
"key": [seconds, ...], "current": [seconds, ...]}; the first round warms up and is not in it.
"""

import json
import runpy
import sys
import time

import mxnet as mx
import numpy as np

INPUTS = ("data", "data_key", "feat_key", "im_info")
FEATURES = ("res5c_relu_output", "feat_conv_3x3_relu_output")  # what a key graph hands on: of Accel, of R-FCN
CARRIED = "warping_feat_output"  # what a current graph hands on. Detectors go back to the key frame each time.
STRIDE = 16


def load(path):
    return mx.sym.load(str(path))


def channels_of(symbol):
    """Return the number of channels of the features that a key graph hands on."""
    name = next(name for name in FEATURES if name in symbol.list_outputs())
    features = symbol[symbol.list_outputs().index(name)]
    given = {"data": (1, 3, 64, 64)}
    return features.infer_shape(**given)[1][0][1]


def bind(symbol, channels, height, width):
    """Return an executor of one graph with small random weights."""
    image = (1, 3, height, width)
    cells = (1, channels, -(-height // STRIDE), -(-width // STRIDE))
    given = {"data": image, "data_key": image, "feat_key": cells, "im_info": (1, 3)}
    names = symbol.list_arguments()
    shapes, _, auxiliary = symbol.infer_shape(**{name: given[name] for name in INPUTS if name in names})
    values = [mx.nd.array(np.random.normal(0, 0.01, shape)) for shape in shapes]
    statistics = [mx.nd.ones(shape) for shape in auxiliary]
    return symbol.bind(mx.cpu(), dict(zip(names, values, strict=True)), aux_states=statistics, grad_req="null")


def run(executor, **inputs):
    """Return the outputs as arrays by name, and the seconds from arrays to arrays."""
    start = time.perf_counter()
    known = {name: mx.nd.array(value) for name, value in inputs.items() if name in executor.arg_dict}
    executor.forward(is_train=False, **known)
    outputs = {name: output.asnumpy() for name, output in executor.output_dict.items()}
    return outputs, time.perf_counter() - start


def main():
    folder, (height, width, interval, rounds) = sys.argv[1], map(int, sys.argv[2:6])
    for operators in sys.argv[6:]:
        runpy.run_path(operators)
    symbols = [load(f"{folder}/{name}-symbol.json") for name in ("key", "cur")]
    channels = channels_of(symbols[0])
    key, current = (bind(symbol, channels, height, width) for symbol in symbols)
    image = np.random.uniform(-120, 120, (1, 3, height, width)).astype(np.float32)
    info = np.array([[height, width, 1]], np.float32)
    nothing = np.zeros((1, channels, -(-height // STRIDE), -(-width // STRIDE)), np.float32)
    taken = {"key": [], "current": []}
    for turn in range(rounds + 1):
        outputs, seconds = run(key, data=image, data_key=image, feat_key=nothing, im_info=info)
        features = next(outputs[name] for name in FEATURES if name in outputs)
        if turn:
            taken["key"].append(seconds)
        for _ in range(interval - 1):
            outputs, seconds = run(current, data=image, data_key=image, feat_key=features, im_info=info)
            features = outputs.get(CARRIED, features)
            if turn:
                taken["current"].append(seconds)
    print(json.dumps({"version": mx.__version__, **taken}))


if __name__ == "__main__":
    main()
