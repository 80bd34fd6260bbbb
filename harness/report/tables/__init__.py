"""The tables of a report, one file a family."""
