"""Tables for a terminal and for machines: results, choices, sweeps, figures."""
