"""MLflow, summary.json and the Pareto report."""
