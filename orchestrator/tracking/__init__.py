"""MLflow: a view of the store, written while a study runs or afterwards."""
