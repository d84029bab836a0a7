"""Networks, their data and their training. Imports no other room."""
