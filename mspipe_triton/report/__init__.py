"""The page about a run, and the page that compares several."""
