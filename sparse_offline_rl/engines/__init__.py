"""Engines run an agent's networks: dense (masked), sparse (surviving values only), captured updates (replayed compiled)."""
