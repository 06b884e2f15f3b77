"""What a notebook and a shell show of graphs, plans, models and notes: HTML, drawings, Mermaid and DOT."""
