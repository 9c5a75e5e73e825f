"""Findings of a comparison: the analysis of each budget and related facts, in numbers and in sentences."""
