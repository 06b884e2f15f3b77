"""What operators of ONNX are here: a table of rules."""
