"""The engine's side of the seam: find its interpreter, clean its environment, talk to its worker."""
