"""The search: spaces, proposals, trials and their log."""
