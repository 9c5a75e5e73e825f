"""Repair: scan, localise, diagnose, treat and verify, with controls."""
