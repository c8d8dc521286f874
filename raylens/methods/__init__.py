"""Methods, one a file: the file's name is the name on the command line."""
