LONGEST = 104_857_600  # bytes of a line: what `max_bytes` of a source allows at the most
