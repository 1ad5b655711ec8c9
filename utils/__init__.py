"""Helpers of the ORPO course: plumbing that the notebooks import, one topic a module."""
