"""Policies for other runtimes: ONNX, C99, safetensors."""
