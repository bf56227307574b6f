"""A human study: two-alternative questions on released clips, as a page for participants, and what their answers say."""

ACTION, PERSON = "action", "person"
"""Kinds of questions beside the attributes' names."""
