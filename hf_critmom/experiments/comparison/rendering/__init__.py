"""The forms of the report: terminal, card, page, and the overview of several comparisons."""
