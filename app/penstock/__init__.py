"""Penstock leads an event stream to its models: Kafka topics flow through a topology of ONNX models to prediction topics."""
