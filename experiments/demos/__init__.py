"""Small demonstrations that chapters and tests call."""
