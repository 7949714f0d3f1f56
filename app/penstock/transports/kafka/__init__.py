"""Kafka at record-batch grain inside Faust's shell.

`tracker` keeps the offsets (pure), `fetch` takes raw records from aiokafka, `consumer` and `producer` are what Faust
is given in place of its own, `transport` is their entry point (`penstock://host:port`).
"""
