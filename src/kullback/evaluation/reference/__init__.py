"""Compact references: a base of comparisons in two kilobytes a token, with bounds that hold the KL of the whole."""
