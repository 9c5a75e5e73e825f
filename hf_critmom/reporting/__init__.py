"""Presentation of results: tables, figures, model cards, HTML pages, and confidence intervals."""
