"""Figures, tables and status, made from run folders alone."""
