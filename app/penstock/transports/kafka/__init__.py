"""Kafka at record-batch grain, hosted by Faust.

`source` and `sink` are the transport (`transports.base`): `fetch` takes raw records from aiokafka, `encode` makes record batches
and `dispatch` sends them; `direct` and `wire` are the two hot requests, on aiokafka's connections without its tasks. `faust` is the
host (`penstock://host:port`). `journal` reads and writes the control and status topics.
"""
