"""Rows and trials read together: orders of tasks, two rows' difference with its noise, studies side by side."""
