"""Checks any server of the Open Inference Protocol v2 from outside, over REST and gRPC; it shares no code with our own service.

`rules` is the table of what is checked, `tensors` makes requests and compares answers, `rest` and `grpc` ask, `check` does all of it.
"""
