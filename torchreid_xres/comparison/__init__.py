"""Rows, networks and runs beside each other: gains, costs, tables and figures."""
