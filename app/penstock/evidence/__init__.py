"""What may be concluded from rows that two models have scored: pure functions of counts, without I/O, clock or chance."""
