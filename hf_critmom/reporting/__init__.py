"""How results are shown: tables, figures, cards, pages, and intervals with their words."""
