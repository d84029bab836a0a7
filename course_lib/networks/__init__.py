"""Networks, their data and their training. Imports no other package of the course."""
