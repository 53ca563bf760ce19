"""How fast the program is, beside plain ways to do the same: `make bench`."""
