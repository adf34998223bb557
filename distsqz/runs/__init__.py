"""What a run is: its cells, its columns, and its directory, which is readable while the run goes on.

`run.json` says what was run and how it ended. Beside it stands a folder a table, whose Parquet files are its
parts. Every file is written under another name and renamed, so that a reader never meets half of one, however
the writer ends.
"""
