"""Pipelines whose stages form a DAG (GraphPipe): operator graphs, and their planning, scheduling and simulation."""
