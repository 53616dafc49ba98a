"""Networks that compute with their surviving weights only."""
