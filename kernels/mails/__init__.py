"""Mails and node records: fetched, aggregated, delivered, patched, gathered."""
