"""The results runner: grids of configs x seeds, run one after another, and their tables. Read `runner.run_jobs`.

grid.py     what a grid and a cell are, and how a grid file is read
configs.py  config files, overrides and comparisons of whole configs
plan.py     from cells to jobs: directory, command, what finished means
donors.py   whose finished stages a job may take over
runner.py   one job after another
child.py    a job as a process, signals, one runner a directory
results.py  what jobs left, read back
summary.py  means over seeds, intervals, paired differences
tables.py   the same as text
"""
