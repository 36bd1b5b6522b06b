"""Pages of finished runs and grids. Read `run_page.py` and `grid_page.py`.

svg.py      figures of matplotlib as SVG inside a page
plots.py    kinds of figures; they know nothing of runs
page.py     HTML
metrics.py  metrics.jsonl, read back
"""
