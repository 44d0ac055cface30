"""Published weights of learned sampling: the LSTS release's names for the parameters of `LearnedSampling`."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from accel.models.propagation.learned_sampling import LearnedSampling
from accel.weights.checkpoints import few
from accel.weights.mxnet_params import read_mxnet_params
from accel.weights.published_params import Naming, Params, bare_names


def sampling_names() -> dict[str, str]:
    """Return, for each parameter of `LearnedSampling` in its state dict, its name in the LSTS release (without `arg:`).

    The network of the low-level features is not included: in the release it is part of the detector's ResNet.
    """
    naming = Naming()
    naming.sampling("")
    return naming.parameters


@torch.no_grad()
def load_published_sampling(sampling: LearnedSampling, *params: Params) -> None:
    """Load arrays with the names of `sampling_names` into a `LearnedSampling`. Their shapes must be those of the state
    dict.

    params: MXNet's `.params` files, `.npz` files, or dictionaries of arrays. If several have the same name, the last
        one counts. Other names are ignored, since the release holds a whole detector.

    Raises ValueError, without changing anything, if parameters are missing or have the wrong shape. The message counts
    them and names some.
    """
    merged: dict[str, np.ndarray] = {}
    for source in params:
        merged.update(bare_names(_read(source)))
    own = sampling.state_dict()
    wanted = {own[key]: (name, tuple(own[key].shape)) for key, name in sampling_names().items()}
    problems = {
        "missing": [name for name, _ in wanted.values() if name not in merged],
        "misshapen": [
            f"{name} {merged[name].shape} instead of {shape}"
            for name, shape in wanted.values()
            if name in merged and merged[name].shape != shape
        ],
    }
    found = [f"{len(names)} {what}: {few(names)}" for what, names in problems.items() if names]
    if found:
        files = [str(source) for source in params if not isinstance(source, Mapping)]
        where = f"{' + '.join(files)}: " if files else ""
        raise ValueError(f"{where}these parameters are not those of this learned sampling: {'; '.join(found)}")
    for parameter, (name, _) in wanted.items():
        parameter.copy_(torch.from_numpy(np.array(merged[name], np.float32)))


def _read(source: Params) -> Mapping[str, np.ndarray]:
    if isinstance(source, Mapping):
        return source
    if Path(source).suffix != ".npz":
        return read_mxnet_params(source)
    return _read_npz(source)


def _read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: not a readable .npz file ({error})") from None
