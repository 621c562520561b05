"""Mails and node records: fetching, aggregation, delivery, patching and gathering."""
