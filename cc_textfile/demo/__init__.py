"""A portal of the program's own, and the table that the demo prints."""
