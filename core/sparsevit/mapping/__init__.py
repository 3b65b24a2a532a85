"""From model to map: streaming, blending, writing."""
