"""Models to start from: temporal graph networks that train as pipelines whose stages form a DAG."""
