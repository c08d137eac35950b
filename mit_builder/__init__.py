"""The machine that turns a list of videos into a labelled multi-human talking dataset."""

__version__ = "0.1.0"
