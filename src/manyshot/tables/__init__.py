"""Records as tables of readable cells: the terminal, notebooks and pages all draw these."""
