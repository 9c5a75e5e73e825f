"""What a comparison found: the analysis of each budget and what belongs to it, in numbers and in sentences."""
