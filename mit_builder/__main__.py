"""`python -m mit_builder`: the command line where the program `mit-build` is not on the path."""

from mit_builder.cli.main import main

main()
