"""Files as a transport: events in, of many files and formats; outputs out, in parts. Bounded, and it resumes where it stopped."""

from __future__ import annotations

from penstock.transports.files.base import Shape
from penstock.transports.files.formats import FORMATS, Format, format_of
from penstock.transports.files.places import Place, place
from penstock.transports.files.sink import FileSink, Output
from penstock.transports.files.source import FileSource, Input, Tables, hive

__all__ = ["FORMATS", "FileSink", "FileSource", "Format", "Input", "Output", "Place", "Shape", "Tables", "format_of", "hive", "place"]
