"""Models for other runtimes: ONNX files, and packages of compiled code (AOTInductor)."""

from accel.exporting.exporter import export, export_model

__all__ = ["export", "export_model"]
