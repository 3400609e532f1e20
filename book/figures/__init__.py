"""The figures and tables of the chapters, and the look that all of them share."""
