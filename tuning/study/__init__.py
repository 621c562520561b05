"""The search: spaces, proposals, records."""
