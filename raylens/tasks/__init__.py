"""Tasks, one a file: what a head predicts, its loss and its metrics."""
