"""A pose backend, a speaker backend and a stage that mit-builder finds by this package's entry points."""
