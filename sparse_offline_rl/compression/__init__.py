"""Finished policies made smaller: units that carry nothing are dropped, weights take few values."""
