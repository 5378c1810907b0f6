"""Readers of published data: each gives a task's rows one by one, or says what is wrong with one."""
