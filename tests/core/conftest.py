"""Settings of all tests of the engine."""

from hypothesis import settings

settings.register_profile("engine", deadline=None)  # machines differ, and the first call imports
settings.load_profile("engine")
