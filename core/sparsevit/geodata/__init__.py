"""Rasters and vectors in and out; no networks here."""
