"""Tables as text: rows of CSV files, and the examples that are in them."""
