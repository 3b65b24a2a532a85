"""Image-level labels: which classes occur in a tile, from fields, polygons, points or coarse maps."""
