"""Contractive processes against their twins: processes, errors of the score, measurements."""
