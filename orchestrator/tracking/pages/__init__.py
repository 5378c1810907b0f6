"""The pages of MLflow's interface: what a study's first page opens with, and what pages say in words."""
