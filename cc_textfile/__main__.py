"""`python -m cc_textfile`."""

from cc_textfile.cli import main

if __name__ == "__main__":
    main()
