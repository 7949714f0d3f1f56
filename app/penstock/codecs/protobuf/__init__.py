"""Protobuf messages: bare (`protobuf`) or behind a frame that names the writer's schema (`protobuf-confluent`, see `framing`).

The library of Protobuf reads and writes the bytes. These modules decide what a message means as an event.
"""
