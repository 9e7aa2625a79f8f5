"""Triton Inference Server: a model repository out of a build folder."""
