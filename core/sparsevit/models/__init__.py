"""Networks: tensors in, tensors out; no rasters here."""
