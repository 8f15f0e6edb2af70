"""What every package uses: files written whole, tables, seeds, the terminal, signals."""
