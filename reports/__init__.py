"""How finished results look and what may be concluded from them.

A report is a pure function of results: a DataFrame goes in, a text comes out. Reading order:

1. `tables`: what a table is made of; `entries`: how seeds become one entry of it.
2. `table2`: every checkpoint under both protocols; `rows`: tables whose rows are named one by one.
3. `paper`: the published numbers beside ours; `expected`: values that a table should have;
   `cost`: what training took.
4. `render`: from a `Table` to text; `wording`: what all formats say alike. A file a format:
   `console`, `markdown`, `latex`, `html`, and `data` for CSV and JSON.
5. `plots`: figures for papers, with what all share in `drawing`; `page`: the one HTML file with
   figures, the grid, pictures, and where every number is from.
6. `compare`: how sure a score is, whether two differ, and the words for it.

Importing this package imports neither pandas nor rich.
"""
