"""Run exported models: with numpy and ONNX Runtime alone, or compiled ones with PyTorch.

Nothing here imports the rest of the package, or PyTorch before a compiled model is loaded. `python -m accel.runtime`
labels a video.
"""

from accel.runtime.model import FramePrediction, Model, State, load
from accel.runtime.streams import Labelled, label, read_video

__all__ = ["FramePrediction", "Labelled", "Model", "State", "label", "load", "read_video"]
