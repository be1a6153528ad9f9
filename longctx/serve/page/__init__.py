"""The page at `/`: documents are read, asked and kept from a browser."""
