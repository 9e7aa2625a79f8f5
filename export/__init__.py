"""Checkpoint -> ONNX -> Q/DQ ONNX."""
