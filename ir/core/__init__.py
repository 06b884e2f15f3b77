"""What a graph is: types, graph, ops and update rules as such, rewriting, evaluation, verification and printing."""
