"""The verbs: one module a stage. `mit_builder.pipeline` puts them in order."""
