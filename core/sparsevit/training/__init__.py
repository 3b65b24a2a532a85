"""Training: one loop, the losses of image-level labels, the head budget, refinement in rounds."""
