"""How finished results look and what may be concluded from them.

A report is a pure function of results: a DataFrame goes in, a text comes out. Reading order:

1. `tables`: from the DataFrame of cells to a `Table` of numbers, marks and footnotes.
2. `rows`: the same where the rows are named one by one.
3. `render`: from a `Table` to the console, Markdown, LaTeX, CSV or JSON.
4. `compare`: how sure a score is, whether two differ, and the words for it.

Importing this package imports neither pandas nor rich.
"""
