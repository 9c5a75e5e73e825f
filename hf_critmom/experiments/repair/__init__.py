"""Repair: scan, localize, diagnose, treat and verify, with controls."""
