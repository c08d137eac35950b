"""Human verdicts: what people say about clips and labels, and what follows from it."""
