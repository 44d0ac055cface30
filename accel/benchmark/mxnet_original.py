"""Time the published Accel graphs in MXNet. A script for MXNet's own interpreter: it imports neither torch nor accel.

    PYTHON mxnet_original.py SYMBOLS HEIGHT WIDTH INTERVAL ROUNDS

SYMBOLS is a folder with key-symbol.json and cur-symbol.json. Weights are made up: only time counts. Prints one line
{"version": MXNet's, "key": [seconds, ...], "current": [seconds, ...]}; the first round warms up and is not in it.
"""

import json
import sys
import time

import mxnet as mx
import numpy as np

INPUTS = ("data", "data_key", "feat_key")
FEATURES, STRIDE = 2048, 16


def bind(path, height, width):
    """Return an executor of one graph with small random weights."""
    symbol = mx.sym.load(path)
    image = (1, 3, height, width)
    given = {"data": image, "data_key": image, "feat_key": (1, FEATURES, -(-height // STRIDE), -(-width // STRIDE))}
    names = symbol.list_arguments()
    shapes, _, auxiliary = symbol.infer_shape(**{name: given[name] for name in INPUTS if name in names})
    values = [mx.nd.array(np.random.normal(0, 0.01, shape)) for shape in shapes]
    statistics = [mx.nd.ones(shape) for shape in auxiliary]
    return symbol.bind(mx.cpu(), dict(zip(names, values, strict=True)), aux_states=statistics, grad_req="null")


def run(executor, **inputs):
    """Return the outputs as arrays, and the seconds from arrays to arrays."""
    start = time.perf_counter()
    known = {name: mx.nd.array(value) for name, value in inputs.items() if name in executor.arg_dict}
    outputs = [output.asnumpy() for output in executor.forward(is_train=False, **known)]
    return outputs, time.perf_counter() - start


def main():
    folder, (height, width, interval, rounds) = sys.argv[1], map(int, sys.argv[2:])
    key, current = (bind(f"{folder}/{name}-symbol.json", height, width) for name in ("key", "cur"))
    image = np.random.uniform(-120, 120, (1, 3, height, width)).astype(np.float32)
    taken = {"key": [], "current": []}
    for turn in range(rounds + 1):
        (features, _), seconds = run(key, data=image)
        if turn:
            taken["key"].append(seconds)
        for _ in range(interval - 1):
            (features, _), seconds = run(current, data=image, data_key=image, feat_key=features)
            if turn:
                taken["current"].append(seconds)
    print(json.dumps({"version": mx.__version__, **taken}))


if __name__ == "__main__":
    main()
