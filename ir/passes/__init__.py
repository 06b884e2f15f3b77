"""From graph to graph: primitives, gradients, the joint graph, and the forms that training and evaluation run."""
