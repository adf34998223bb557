"""The report as one HTML page: figures, tables and sentences in a file that needs no other."""
