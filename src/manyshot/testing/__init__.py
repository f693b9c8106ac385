"""Conformance suites: subclass one for a part of your own and inherit the checks."""
